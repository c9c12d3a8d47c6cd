using System.Text.Json;

namespace MemoryWorker.Client.Protocol;

/// <summary>What the generated writers are made of: one value, null where there is none.</summary>
internal static class WireWriter
{
    internal static void Value(Utf8JsonWriter writer, long? value)
    {
        if (value is { } number)
        {
            writer.WriteNumberValue(number);
        }
        else
        {
            writer.WriteNullValue();
        }
    }

    internal static void Value(Utf8JsonWriter writer, double? value)
    {
        if (value is { } number)
        {
            writer.WriteNumberValue(number);
        }
        else
        {
            writer.WriteNullValue();
        }
    }

    internal static void Value(Utf8JsonWriter writer, bool? value)
    {
        if (value is { } truth)
        {
            writer.WriteBooleanValue(truth);
        }
        else
        {
            writer.WriteNullValue();
        }
    }

    internal static void Value(Utf8JsonWriter writer, string? value) => writer.WriteStringValue(value);

    /// <exception cref="JsonException">A text in it is no Unicode, which is found only when it is written.</exception>
    internal static void Value(Utf8JsonWriter writer, JsonElement value)
    {
        try
        {
            value.WriteTo(writer);
        }
        catch (InvalidOperationException problem)
        {
            throw new JsonException("a text in it has half of a surrogate pair, which is no Unicode", problem);
        }
    }

    internal static void Value(Utf8JsonWriter writer, JsonElement? value)
    {
        if (value is { } given)
        {
            Value(writer, given);
        }
        else
        {
            writer.WriteNullValue();
        }
    }

    internal static void Value(Utf8JsonWriter writer, PressureTarget? value)
    {
        if (value?.Category is { } category)
        {
            writer.WriteStringValue(category.ToWord());
        }
        else
        {
            Value(writer, value?.Percentage);
        }
    }

    internal static void Value<T>(Utf8JsonWriter writer, T? value)
        where T : class, IWireRecord<T>
    {
        if (value is null)
        {
            writer.WriteNullValue();
        }
        else
        {
            value.Write(writer);
        }
    }

    /// <summary>The text of a word that was not known when it was read; null for any other.</summary>
    internal static string? Kept(bool isUnknown, IReadOnlyDictionary<string, string>? texts, string member) =>
        isUnknown ? texts?.GetValueOrDefault(member) : null;

    internal static void Words<T>(
        Utf8JsonWriter writer,
        IReadOnlyList<T>? items,
        IReadOnlyDictionary<string, string>? texts,
        string member,
        Func<T, string> word)
        where T : struct, Enum
    {
        if (items is null)
        {
            writer.WriteNullValue();
            return;
        }
        writer.WriteStartArray();
        for (var index = 0; index < items.Count; index++)
        {
            var isUnknown = EqualityComparer<T>.Default.Equals(items[index], default);
            writer.WriteStringValue(Kept(isUnknown, texts, $"{member}[{index}]") ?? word(items[index]));
        }
        writer.WriteEndArray();
    }

    internal static void List<T>(Utf8JsonWriter writer, IReadOnlyList<T>? items, Action<Utf8JsonWriter, T> item)
    {
        if (items is null)
        {
            writer.WriteNullValue();
            return;
        }
        writer.WriteStartArray();
        for (var index = 0; index < items.Count; index++)
        {
            item(writer, items[index]);
        }
        writer.WriteEndArray();
    }
}

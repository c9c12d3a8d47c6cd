using System.Text.Json;
using System.Text.RegularExpressions;

namespace MemoryWorker.Client.Protocol;

/// <summary>What the generated readers are made of. Every refusal is a <see cref="JsonException"/> that names the member.</summary>
internal static class WireReader
{
    internal static readonly JsonElement EmptyObject = Parse("{}"u8);

    internal delegate T ItemReader<out T>(ref Utf8JsonReader reader, string member, bool strict);

    internal delegate T WordReader<out T>(
        ref Utf8JsonReader reader, string member, bool strict, ref Dictionary<string, string>? unknown);

    internal static void Begin(ref Utf8JsonReader reader, string type)
    {
        if (reader.TokenType == JsonTokenType.None)
        {
            reader.Read();
        }
        Expect(ref reader, JsonTokenType.StartObject, type, "an object");
    }

    /// <summary>Moves to the next member's name; false at the end of the object.</summary>
    internal static bool Next(ref Utf8JsonReader reader) => reader.Read() && reader.TokenType == JsonTokenType.PropertyName;

    /// <summary>Moves to the value if the reader stands on this name.</summary>
    internal static bool IsAt(ref Utf8JsonReader reader, ReadOnlySpan<byte> name) => reader.ValueTextEquals(name) && reader.Read();

    /// <summary>Refuses or skips the member that the reader stands on.</summary>
    internal static void Unknown(ref Utf8JsonReader reader, string type, bool refuse)
    {
        if (refuse)
        {
            throw new JsonException($"{type}: the member {Shown(ref reader)} is unknown");
        }
        reader.Skip();
    }

    /// <summary>Throws for the first name whose bit is not in <paramref name="seen"/>.</summary>
    internal static void Require(ulong seen, string type, params string[] names)
    {
        for (var index = 0; index < names.Length; index++)
        {
            if ((seen & (1UL << index)) == 0)
            {
                throw new JsonException($"{type}: the member {names[index]} is missing");
            }
        }
    }

    internal static bool IsNull(ref Utf8JsonReader reader) => reader.TokenType == JsonTokenType.Null;

    internal static long Int64(
        ref Utf8JsonReader reader, string member, bool strict, long minimum = long.MinValue, long maximum = long.MaxValue)
    {
        Expect(ref reader, JsonTokenType.Number, member, "an integer");
        if (!reader.TryGetInt64(out var value))
        {
            throw new JsonException($"{member}: {Shown(ref reader)} is not an integer of 64 bits");
        }
        return !strict || (value >= minimum && value <= maximum)
            ? value
            : throw new JsonException($"{member}: {value} is not within {minimum} and {maximum}");
    }

    internal static double Double(
        ref Utf8JsonReader reader,
        string member,
        bool strict,
        double minimum = double.MinValue,
        double maximum = double.MaxValue,
        double above = double.NegativeInfinity)
    {
        Expect(ref reader, JsonTokenType.Number, member, "a number");
        if (!reader.TryGetDouble(out var value) || !double.IsFinite(value))
        {
            throw new JsonException($"{member}: {Shown(ref reader)} is not a finite number");
        }
        return !strict || (value >= minimum && value <= maximum && value > above)
            ? value
            : throw new JsonException($"{member}: {value} is not within {Math.Max(minimum, above)} and {maximum}");
    }

    internal static bool Boolean(ref Utf8JsonReader reader, string member) => reader.TokenType switch
    {
        JsonTokenType.True => true,
        JsonTokenType.False => false,
        _ => throw new JsonException($"{member}: {reader.TokenType} is not true or false"),
    };

    internal static bool Constant(ref Utf8JsonReader reader, string member, bool only) =>
        Boolean(ref reader, member) == only ? only : throw new JsonException($"{member}: it can only be {only}");

    /// <summary>Lengths are in characters of Unicode, as everywhere in the contract, not in UTF-16 units.</summary>
    internal static string String(
        ref Utf8JsonReader reader, string member, bool strict, int minimum = 0, int maximum = int.MaxValue, string? pattern = null)
    {
        Expect(ref reader, JsonTokenType.String, member, "a string");
        string text;
        try
        {
            text = reader.GetString()!;
        }
        catch (InvalidOperationException invalid)
        {
            throw new JsonException($"{member}: it is not valid Unicode", invalid);
        }
        if (strict)
        {
            CheckText(text, member, minimum, maximum, pattern);
        }
        return text;
    }

    internal static JsonElement Object(ref Utf8JsonReader reader, string member)
    {
        Expect(ref reader, JsonTokenType.StartObject, member, "an object");
        return JsonElement.ParseValue(ref reader);
    }

    /// <summary>Reads whatever is there.</summary>
    internal static JsonElement Any(ref Utf8JsonReader reader) => JsonElement.ParseValue(ref reader);

    internal static T Record<T>(ref Utf8JsonReader reader, string member, bool strict)
        where T : class, IWireRecord<T>
    {
        Expect(ref reader, JsonTokenType.StartObject, member, "an object");
        return T.Read(ref reader, strict);
    }

    internal static IReadOnlyList<T> List<T>(
        ref Utf8JsonReader reader, string member, bool strict, ItemReader<T> item, int minimum = 0, int maximum = int.MaxValue)
    {
        Expect(ref reader, JsonTokenType.StartArray, member, "an array");
        var items = new List<T>();
        while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
        {
            items.Add(item(ref reader, member, strict));
        }
        return Bounded(items, member, strict, minimum, maximum);
    }

    /// <summary>A list of an enum's words; the text of an unknown one is kept under <c>member[index]</c>.</summary>
    internal static IReadOnlyList<T> Words<T>(
        ref Utf8JsonReader reader,
        string member,
        bool strict,
        ref Dictionary<string, string>? unknown,
        WordReader<T> item,
        int minimum = 0,
        int maximum = int.MaxValue)
    {
        Expect(ref reader, JsonTokenType.StartArray, member, "an array");
        var items = new List<T>();
        while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
        {
            Dictionary<string, string>? one = null;
            items.Add(item(ref reader, member, strict, ref one));
            if (one is not null)
            {
                (unknown ??= [])[$"{member}[{items.Count - 1}]"] = one[member];
            }
        }
        return Bounded(items, member, strict, minimum, maximum);
    }

    internal static PressureTarget PressureTarget(
        ref Utf8JsonReader reader, string member, bool strict, double maximum, double above)
    {
        Dictionary<string, string>? none = null;
        return reader.TokenType == JsonTokenType.String
            ? WireWords.ReadPressureCategory(ref reader, member, strict: true, ref none)
            : Double(ref reader, member, strict, maximum: maximum, above: above);
    }

    /// <summary>Keeps the text of a word that this library does not know; strictly, refuses it.</summary>
    internal static void UnknownWord(
        ref Utf8JsonReader reader, string member, bool strict, ref Dictionary<string, string>? unknown, string known)
    {
        if (strict)
        {
            throw new JsonException($"{member}: {Shown(ref reader)} is not one of {known}");
        }
        (unknown ??= [])[member] = String(ref reader, member, strict);
    }

    internal static void ExpectWord(ref Utf8JsonReader reader, string member) =>
        Expect(ref reader, JsonTokenType.String, member, "a word");

    private static IReadOnlyList<T> Bounded<T>(List<T> items, string member, bool strict, int minimum, int maximum) =>
        !strict || (items.Count >= minimum && items.Count <= maximum)
            ? items.AsReadOnly()
            : throw new JsonException($"{member}: {items.Count} items are not within {minimum} and {maximum}");

    private static void CheckText(string text, string member, int minimum, int maximum, string? pattern)
    {
        var length = text.EnumerateRunes().Count();
        if (length < minimum || length > maximum)
        {
            throw new JsonException($"{member}: {length} characters are not within {minimum} and {maximum}");
        }
        if (pattern is not null && !Regex.IsMatch(text, pattern, RegexOptions.CultureInvariant))
        {
            throw new JsonException($"{member}: it does not match {pattern}");
        }
    }

    private static void Expect(ref Utf8JsonReader reader, JsonTokenType wanted, string member, string what)
    {
        if (reader.TokenType != wanted)
        {
            throw new JsonException($"{member}: {what} was expected, not {reader.TokenType}");
        }
    }

    /// <summary>The token as it stands, shortened: it comes from outside.</summary>
    private static string Shown(ref Utf8JsonReader reader)
    {
        const int Longest = 64;
        var text = System.Text.Encoding.UTF8.GetString(reader.ValueSpan);
        return text.Length <= Longest ? text : text[..Longest] + "…";
    }

    private static JsonElement Parse(ReadOnlySpan<byte> utf8)
    {
        var reader = new Utf8JsonReader(utf8);
        return JsonElement.ParseValue(ref reader);
    }
}

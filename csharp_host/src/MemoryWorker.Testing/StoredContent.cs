using System.Globalization;
using System.Text;
using System.Text.Json;

namespace MemoryWorker.Testing;

/// <summary>What is stored of an entry, as many bytes as the worker has of it.</summary>
/// <param name="Data">The bytes: of an allocation, or of JSON without spaces.</param>
/// <param name="IsJson">Which of them.</param>
internal sealed record StoredContent(byte[] Data, bool IsJson)
{
    /// <summary>A copy of the value; null where it is JSON's null, or none.</summary>
    public JsonElement? Value => IsJson && Parsed() is { ValueKind: not JsonValueKind.Null } value ? value : null;

    /// <summary>Of a value, null for none at all.</summary>
    public static StoredContent Of(JsonElement? value) => new(Encoding.UTF8.GetBytes(value is { } one ? Text(one) : "null"), IsJson: true);

    /// <summary>A value as the worker writes it: no spaces, and nothing escaped that need not be.</summary>
    public static string Text(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.Object => $"{{{string.Join(',', value.EnumerateObject().Select(one => $"{Text(one.Name)}:{Text(one.Value)}"))}}}",
        JsonValueKind.Array => $"[{string.Join(',', value.EnumerateArray().Select(Text))}]",
        JsonValueKind.String => Text(value.GetString()!),
        _ => value.GetRawText(),
    };

    /// <summary>A text in JSON.</summary>
    public static string Text(string text)
    {
        var written = new StringBuilder("\"");
        foreach (var one in text)
        {
            _ = one switch
            {
                '"' or '\\' => written.Append('\\').Append(one),
                '\b' => written.Append("\\b"),
                '\t' => written.Append("\\t"),
                '\n' => written.Append("\\n"),
                '\f' => written.Append("\\f"),
                '\r' => written.Append("\\r"),
                < ' ' => written.Append(CultureInfo.InvariantCulture, $"\\u{(int)one:x4}"),
                _ => written.Append(one),
            };
        }

        return written.Append('"').ToString();
    }

    /// <summary>The value, whatever it is; undefined for bytes.</summary>
    public JsonElement Parsed()
    {
        if (!IsJson)
        {
            return default;
        }

        using var document = JsonDocument.Parse(Data);
        return document.RootElement.Clone();
    }
}

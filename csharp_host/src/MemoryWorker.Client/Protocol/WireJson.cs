using System.Buffers;
using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;

namespace MemoryWorker.Client.Protocol;

/// <summary>Whole JSON texts to records of the contract and back.</summary>
public static class WireJson
{
    /// <summary>How a line is written: one line, and text as it is instead of <c>\uXXXX</c>.</summary>
    public static JsonWriterOptions WriterOptions { get; } = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Reads one object and nothing after it.</summary>
    /// <exception cref="JsonException">It is not JSON, or not this type.</exception>
    public static T Read<T>(ReadOnlySpan<byte> utf8, bool strict = false)
        where T : class, IWireRecord<T>
    {
        var reader = new Utf8JsonReader(utf8);
        var read = T.Read(ref reader, strict);
        return reader.Read() ? throw new JsonException("there is more after the object") : read;
    }

    /// <inheritdoc cref="Read{T}(ReadOnlySpan{byte}, bool)"/>
    public static T Read<T>(string json, bool strict = false)
        where T : class, IWireRecord<T> => Read<T>(Encoding.UTF8.GetBytes(json), strict);

    /// <inheritdoc cref="Read{T}(ReadOnlySpan{byte}, bool)"/>
    public static T Read<T>(JsonElement element, bool strict = false)
        where T : class, IWireRecord<T> => Read<T>(element.GetRawText(), strict);

    /// <summary>Writes one object.</summary>
    public static void Write<T>(IBufferWriter<byte> into, T value)
        where T : class, IWireRecord<T>
    {
        using var writer = new Utf8JsonWriter(into, WriterOptions);
        value.Write(writer);
    }

    /// <summary>Writes one object as text.</summary>
    public static string ToText<T>(T value)
        where T : class, IWireRecord<T>
    {
        var buffer = new ArrayBufferWriter<byte>();
        Write(buffer, value);
        return Encoding.UTF8.GetString(buffer.WrittenSpan);
    }

    /// <summary>Writes one object as an element, as a <c>data</c> member wants it.</summary>
    public static JsonElement ToElement<T>(T value)
        where T : class, IWireRecord<T>
    {
        var buffer = new ArrayBufferWriter<byte>();
        Write(buffer, value);
        var reader = new Utf8JsonReader(buffer.WrittenSpan);
        return JsonElement.ParseValue(ref reader);
    }
}

using System.Buffers;
using System.Text;
using System.Text.Json;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>A record of the wire as JSON, and back.</summary>
internal static class WireText
{
    public static JsonElement ToElement<T>(T record)
        where T : class, IWireRecord<T>
    {
        var buffer = new ArrayBufferWriter<byte>();
        using (var writer = new Utf8JsonWriter(buffer))
        {
            record.Write(writer);
        }

        var reader = new Utf8JsonReader(buffer.WrittenSpan);
        return JsonElement.ParseValue(ref reader);
    }

    public static T FromElement<T>(JsonElement element)
        where T : class, IWireRecord<T>
    {
        var reader = new Utf8JsonReader(Encoding.UTF8.GetBytes(element.GetRawText()));
        reader.Read();
        return T.Read(ref reader, strict: false);
    }
}

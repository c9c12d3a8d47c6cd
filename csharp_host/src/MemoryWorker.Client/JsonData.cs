using System.Text.Json;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>A request or an answer as plain JSON: for actions newer than this library, and recommended ones.</summary>
/// <param name="Value">An object.</param>
public sealed record JsonData(JsonElement Value) : IWireRecord<JsonData>
{
    /// <summary>Reads JSON text.</summary>
    /// <exception cref="JsonException">The text is not JSON.</exception>
    public static JsonData Parse(string json)
    {
        using var document = JsonDocument.Parse(json);
        return new JsonData(document.RootElement.Clone());
    }

    /// <inheritdoc/>
    public static JsonData Read(ref Utf8JsonReader reader, bool strict) => new(JsonElement.ParseValue(ref reader));

    /// <inheritdoc/>
    /// <exception cref="JsonException">A text in it is no Unicode: <c>"\ud800"</c>.</exception>
    public void Write(Utf8JsonWriter writer) => WireWriter.Value(writer, Value);
}

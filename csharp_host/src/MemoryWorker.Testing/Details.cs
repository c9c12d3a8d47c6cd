using System.Text.Json;
using System.Text.Json.Nodes;

namespace MemoryWorker.Testing;

/// <summary>An error's details as JSON, without reflection.</summary>
internal static class Details
{
    public static JsonElement Of(object? value)
    {
        using var document = JsonDocument.Parse(value is null ? "{}" : Node(value)!.ToJsonString());
        return document.RootElement.Clone();
    }

    private static JsonNode? Node(object? value) => value switch
    {
        null => null,
        string text => JsonValue.Create(text),
        long number => JsonValue.Create(number),
        JsonElement element => JsonNode.Parse(element.GetRawText()),
        IEnumerable<KeyValuePair<string, object?>> members =>
            new JsonObject(members.Select(one => KeyValuePair.Create(one.Key, Node(one.Value)))),
        IEnumerable<object?> items => new JsonArray([.. items.Select(Node)]),
        _ => throw new ArgumentException($"no JSON for a {value.GetType()}", nameof(value)),
    };
}

using System.Dynamic;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace ApiResponseHost;

/// <summary>
/// A reply whose members are found by name: <c>answer.success</c>, <c>answer.data.allocation_id</c>, and, as older callers
/// have it, <c>answer.allocation_id</c>. A member that is not there is null. As text it is the reply's JSON.
/// </summary>
[JsonConverter(typeof(AsItIs))]
public sealed class WorkerAnswer(JsonElement reply) : DynamicObject
{
    /// <summary>The reply, or the part of it that this is.</summary>
    public JsonElement Json => reply;

    public override bool TryGetMember(GetMemberBinder binder, out object? result)
    {
        var isThere = reply.TryGetProperty(binder.Name, out var found)
            || (reply.TryGetProperty("data", out var data)
                && data.ValueKind == JsonValueKind.Object
                && data.TryGetProperty(binder.Name, out found));
        result = isThere ? Value(found) : null;
        return true;
    }

    public override IEnumerable<string> GetDynamicMemberNames() => reply.EnumerateObject().Select(one => one.Name);

    public override string ToString() => reply.GetRawText();

    private static object? Value(JsonElement found) => found.ValueKind switch
    {
        JsonValueKind.Object => new WorkerAnswer(found),
        JsonValueKind.Array => found.EnumerateArray().Select(Value).ToList(),
        JsonValueKind.String => found.GetString(),
        JsonValueKind.Number => found.TryGetInt64(out var whole) ? whole : found.GetDouble(),
        JsonValueKind.True or JsonValueKind.False => found.GetBoolean(),
        _ => null,
    };

    private sealed class AsItIs : JsonConverter<WorkerAnswer>
    {
        public override WorkerAnswer Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) =>
            new(JsonElement.ParseValue(ref reader));

        public override void Write(Utf8JsonWriter writer, WorkerAnswer value, JsonSerializerOptions options) =>
            value.Json.WriteTo(writer);
    }
}

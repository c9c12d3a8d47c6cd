using System.Text.Json;
using System.Text.Json.Serialization;
using MemoryWorker.Client.Protocol;

namespace WebApi;

/// <summary>Records of the contract as they are on the wire, also within other types, whose names follow the wire's.</summary>
internal sealed class WireJsonOptions : JsonConverterFactory
{
    public static JsonSerializerOptions Value { get; } = new(JsonSerializerDefaults.Web)
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        Converters = { new WireJsonOptions(), new JsonStringEnumConverter(JsonNamingPolicy.SnakeCaseLower) },
    };

    public override bool CanConvert(Type typeToConvert) => typeToConvert.GetInterfaces().Any(
        one => one.IsGenericType && one.GetGenericTypeDefinition() == typeof(IWireRecord<>));

    public override JsonConverter CreateConverter(Type typeToConvert, JsonSerializerOptions options) =>
        (JsonConverter)Activator.CreateInstance(typeof(OfRecord<>).MakeGenericType(typeToConvert))!;

    private sealed class OfRecord<T> : JsonConverter<T>
        where T : class, IWireRecord<T>
    {
        public override T Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) =>
            WireJson.Read<T>(JsonElement.ParseValue(ref reader));

        public override void Write(Utf8JsonWriter writer, T value, JsonSerializerOptions options) => value.Write(writer);
    }
}

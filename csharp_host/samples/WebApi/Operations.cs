using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Unicode;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;
using Microsoft.AspNetCore.Http.Features;

namespace WebApi;

/// <summary>
/// The contract's actions as routes, out of the OpenAPI document that is generated from it: an action that comes later is
/// an operation at once. What is asked is checked by the worker, whose refusals name each field that is wrong.
/// </summary>
internal static class Operations
{
    /// <summary>As it is served.</summary>
    public static byte[] Document { get; } = Read();

    public static void MapOperations(this IEndpointRouteBuilder app)
    {
        foreach (var (path, methods) in JsonNode.Parse(Document)!["paths"]!.AsObject())
        {
            foreach (var (method, operation) in methods!.AsObject())
            {
                var name = operation!["operationId"]!.GetValue<string>();
                if (name.Contains('.', StringComparison.Ordinal)) // An action; the others are this host's own.
                {
                    app.MapMethods(path, [method.ToUpperInvariant()], Handler(name, operation)).WithName(name);
                }
            }
        }
    }

    private static Delegate Handler(string name, JsonNode operation)
    {
        var action = WireAction.Plain(name);
        var types = operation["parameters"]?.AsArray().ToDictionary(
            one => one!["name"]!.GetValue<string>(), one => one!["schema"]!["type"]?.GetValue<string>());
        return async (HttpContext context, IPythonWorkerService worker) =>
        {
            var data = types is null ? await BodyAsync(context) : Parameters(context.Request, types);
            var answer = await worker.ExecuteAsync(action, new JsonData(data), cancellationToken: context.RequestAborted);
            return Results.Json(answer.Value);
        };
    }

    private static async Task<JsonElement> BodyAsync(HttpContext context)
    {
        var request = context.Request;
        if (request.ContentLength == 0 || context.Features.Get<IHttpRequestBodyDetectionFeature>()?.CanHaveBody == false)
        {
            return JsonSerializer.SerializeToElement(new JsonObject()); // Everything may be left out of some.
        }

        if (!request.HasJsonContentType())
        {
            throw new BadHttpRequestException(
                $"the body is {request.ContentType ?? "of no type"}, and application/json is expected",
                StatusCodes.Status415UnsupportedMediaType);
        }

        using var body = new MemoryStream();
        await request.Body.CopyToAsync(body, context.RequestAborted);
        if (!Utf8.IsValid(body.GetBuffer().AsSpan(0, (int)body.Length)))
        {
            throw new JsonException("it is not UTF-8"); // JsonDocument would put other characters in its place.
        }

        body.Position = 0;
        using var document = await JsonDocument.ParseAsync(body, cancellationToken: context.RequestAborted);
        return document.RootElement.ValueKind == JsonValueKind.Object
            ? document.RootElement.Clone()
            : throw new BadHttpRequestException($"the body is a JSON object, and this is {document.RootElement.ValueKind}");
    }

    /// <summary>Turns a query into what the action takes. What is not of its type stays text, for the worker to name.</summary>
    private static JsonElement Parameters(HttpRequest request, Dictionary<string, string?> types)
    {
        var data = new JsonObject();
        foreach (var (name, value) in request.RouteValues.Where(one => types.ContainsKey(one.Key)))
        {
            data[name] = value?.ToString()?.Replace("%2F", "/", StringComparison.OrdinalIgnoreCase); // A path keeps its slashes encoded.
        }

        foreach (var (name, values) in request.Query)
        {
            if (request.RouteValues.ContainsKey(name))
            {
                throw new BadHttpRequestException($"'{name}' is in the path, and can't be in the query as well");
            }

            data[name] = types.GetValueOrDefault(name) == "array"
                ? new JsonArray([.. values.Select(one => JsonValue.Create(one))])
                : Value(values.ToString(), types.GetValueOrDefault(name));
        }

        return JsonSerializer.SerializeToElement(data);
    }

    private static JsonValue? Value(string text, string? type) => type switch
    {
        "integer" when long.TryParse(text, CultureInfo.InvariantCulture, out var whole) => JsonValue.Create(whole),
        "number" when double.TryParse(text, CultureInfo.InvariantCulture, out var number) => JsonValue.Create(number),
        "boolean" when bool.TryParse(text, out var answer) => JsonValue.Create(answer),
        _ => JsonValue.Create(text),
    };

    private static byte[] Read()
    {
        using var resource = typeof(Operations).Assembly.GetManifestResourceStream("openapi.json")!;
        using var all = new MemoryStream();
        resource.CopyTo(all);
        return all.ToArray();
    }
}

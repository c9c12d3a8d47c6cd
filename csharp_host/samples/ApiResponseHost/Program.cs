// A host whose callers and routes stay as they are, on the memory worker:  dotnet run [-- --urls=http://localhost:5000]
using System.Text.Json;
using System.Text.Json.Serialization;
using ApiResponseHost;
using MemoryWorker.Hosting;
using Microsoft.AspNetCore.WebUtilities;

var builder = WebApplication.CreateBuilder(args);
builder.Services.AddMemoryWorker(builder.Configuration.GetSection(MemoryWorkerOptions.Section));
builder.Services.AddApiResponseMemory();
builder.Services.Configure<RouteHandlerOptions>(options => options.ThrowOnBadRequest = true);
builder.Services.ConfigureHttpJsonOptions(options => options.SerializerOptions.Converters.Add(
    new JsonStringEnumConverter(JsonNamingPolicy.SnakeCaseLower, allowIntegerValues: false)));

var app = builder.Build();
app.MapHealthChecks("/health");

var api = app.MapGroup("/api/memory");
api.AddEndpointFilter(StatusAsync);
app.UseStatusCodePages(told => RefusedAsync(told.HttpContext, ReasonPhrases.GetReasonPhrase(told.HttpContext.Response.StatusCode)));
app.Use(BadRequestsAsync);
app.Use(DecodeSlashesAsync);

api.MapGet("/status", (IServiceMemory memory) => memory.GetMemoryStatusAsync());
api.MapGet("/status/{device}", (string device, IServiceMemory memory) => memory.GetMemoryStatusDeviceAsync(device));
api.MapGet("/usage", (IServiceMemory memory) => memory.GetMemoryUsageAsync());
api.MapGet("/usage/{device}", (string device, IServiceMemory memory) => memory.GetMemoryUsageAsync(device));
api.MapGet("/allocations", (IServiceMemory memory) => memory.GetMemoryAllocationsAsync());
api.MapGet("/allocations/device/{device}", (string device, IServiceMemory memory) => memory.GetMemoryAllocationsAsync(device));
api.MapGet("/allocation/{id}", (string id, IServiceMemory memory) => memory.GetMemoryAllocationAsync(id));
api.MapPost("/allocations/allocate", (PostMemoryAllocateRequest request, IServiceMemory memory) => memory.PostMemoryAllocateAsync(request));
api.MapPost("/allocations/allocate/{device}", (PostMemoryAllocateRequest request, string device, IServiceMemory memory) =>
    memory.PostMemoryAllocateAsync(request, device));
api.MapDelete("/allocations/{id}", (string id, IServiceMemory memory) => memory.DeleteMemoryAllocationAsync(id));
api.MapPost("/operations/clear", (PostMemoryClearRequest request, IServiceMemory memory) => memory.PostMemoryClearAsync(request));
api.MapPost("/operations/clear/{device}", (PostMemoryClearRequest request, string device, IServiceMemory memory) =>
    memory.PostMemoryClearAsync(request, device));
api.MapPost("/operations/defragment", (PostMemoryDefragmentRequest request, IServiceMemory memory) =>
    memory.PostMemoryDefragmentAsync(request));
api.MapPost("/operations/defragment/{device}", (PostMemoryDefragmentRequest request, string device, IServiceMemory memory) =>
    memory.PostMemoryDefragmentAsync(request, device));
api.MapPost("/transfer", (PostMemoryTransferRequest request, IServiceMemory memory) => memory.PostMemoryTransferAsync(request));
api.MapGet("/transfer/{id}", (string id, IServiceMemory memory) => memory.GetMemoryTransferAsync(id));

await app.RunAsync();

// The status over HTTP is the answer's own.
static async ValueTask<object?> StatusAsync(EndpointFilterInvocationContext context, EndpointFilterDelegate next)
{
    var answer = await next(context);
    if (answer is IApiResponse { Error: { } error })
    {
        context.HttpContext.Response.StatusCode = error.StatusCode;
    }

    return answer;
}

// Of a fleet's ids, such as node-1/cuda:0, a path keeps the slash encoded.
static Task DecodeSlashesAsync(HttpContext context, RequestDelegate next)
{
    foreach (var (name, value) in context.Request.RouteValues.ToList())
    {
        context.Request.RouteValues[name] = (value as string)?.Replace("%2F", "/", StringComparison.OrdinalIgnoreCase) ?? value;
    }

    return next(context);
}

// What could not be read never comes to a handler; it is answered in the same form.
static async Task BadRequestsAsync(HttpContext context, RequestDelegate next)
{
    try
    {
        await next(context);
    }
    catch (BadHttpRequestException bad)
    {
        context.Response.StatusCode = bad.StatusCode;
        await RefusedAsync(
            context, bad.InnerException is JsonException json ? $"the body is not what is expected: {json.Message}" : bad.Message);
    }
}

static Task RefusedAsync(HttpContext context, string message) =>
    context.Response.WriteAsJsonAsync(ApiResponse<object>.CreateError("invalid_request", message, context.Response.StatusCode));

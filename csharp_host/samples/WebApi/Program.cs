// The memory service over HTTP:  dotnet run -- --MemoryWorker:WorkingDirectory=FOLDER [--urls=http://localhost:5000]
using System.Text.Json;
using System.Text.Json.Serialization;
using MemoryWorker.Client;
using MemoryWorker.Hosting;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Json;
using Microsoft.Extensions.DependencyInjection;
using WebApi;

var builder = WebApplication.CreateBuilder(args);
builder.Services.AddMemoryWorker(builder.Configuration.GetSection(MemoryWorkerOptions.Section));
builder.Services.AddProblemDetails();
builder.Services.AddExceptionHandler<WorkerProblems>();
builder.Services.Configure<JsonOptions>(options => options.SerializerOptions.Converters.Add(
    new JsonStringEnumConverter(JsonNamingPolicy.SnakeCaseLower, allowIntegerValues: false)));

var app = builder.Build();
app.UseExceptionHandler();
app.MapHealthChecks("/health");

var api = app.MapGroup("/api/memory");
api.MapGet("/status", (IServiceMemory memory, CancellationToken token) =>
    memory.GetMemoryStatusAsync(cancellationToken: token));
api.MapGet("/status/{deviceId}", (string deviceId, IServiceMemory memory, CancellationToken token) =>
    memory.GetMemoryStatusDeviceAsync(deviceId, cancellationToken: token));
api.MapGet("/usage", (string? deviceId, IServiceMemory memory, CancellationToken token) =>
    memory.GetMemoryUsageAsync(deviceId, cancellationToken: token));
api.MapGet("/allocations", (string? deviceId, string? owner, int? limit, string? after, IServiceMemory memory, CancellationToken token) =>
    memory.GetMemoryAllocationsAsync(
        new GetMemoryAllocationsRequest { DeviceId = deviceId, Owner = owner, Limit = limit ?? 100, After = after }, token));
api.MapGet("/allocation/{id}", (string id, IServiceMemory memory, CancellationToken token) =>
    memory.GetMemoryAllocationAsync(id, token));
api.MapPost("/allocate", async (PostMemoryAllocateRequest request, IServiceMemory memory, CancellationToken token) =>
{
    var made = await memory.PostMemoryAllocateAsync(request, token);
    return Results.Created($"/api/memory/allocation/{made.AllocationId}", made);
});
api.MapDelete("/allocation/{id}", (string id, bool? force, IServiceMemory memory, CancellationToken token) =>
    memory.DeleteMemoryAllocationAsync(id, force ?? false, token));
api.MapPost("/transfer", (PostMemoryTransferRequest request, IServiceMemory memory, CancellationToken token) =>
    memory.PostMemoryTransferAsync(request, cancellationToken: token));
api.MapGet("/transfer/{id}", (string id, IServiceMemory memory, CancellationToken token) =>
    memory.GetMemoryTransferAsync(id, token));
api.MapPost("/copy", (PostMemoryCopyRequest request, IServiceMemory memory, CancellationToken token) =>
    memory.PostMemoryCopyAsync(request, cancellationToken: token));
api.MapPost("/clear", (PostMemoryClearRequest request, IServiceMemory memory, CancellationToken token) =>
    memory.PostMemoryClearAsync(request, token));
api.MapPost("/optimize", (PostMemoryOptimizeRequest request, IServiceMemory memory, CancellationToken token) =>
    memory.PostMemoryOptimizeAsync(request, token));
api.MapPost("/defragment", (PostMemoryDefragmentRequest request, IServiceMemory memory, CancellationToken token) =>
    memory.PostMemoryDefragmentAsync(request, token));
api.MapGet("/models", (string? deviceId, IServiceMemory memory, CancellationToken token) =>
    memory.GetModelMemoryStatusAsync(deviceId: deviceId, cancellationToken: token));
api.MapGet("/pressure", (string? deviceId, IServiceMemory memory, CancellationToken token) =>
    memory.GetMemoryPressureAsync(deviceId, token));
api.MapGet("/analytics", (string? deviceId, IServiceMemory memory, CancellationToken token) =>
    memory.GetMemoryAnalyticsAsync(deviceId, cancellationToken: token));
api.MapGet("/optimization", (string? deviceId, IServiceMemory memory, CancellationToken token) =>
    memory.GetMemoryOptimizationAsync(deviceId, token));

await app.RunAsync();

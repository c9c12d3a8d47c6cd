// The memory worker over HTTP:  dotnet run [-- --urls=http://localhost:5000 --MemoryWorker:WorkingDirectory=FOLDER]
// Every action of the contract is an operation; what there is says GET /openapi.json.
using MemoryWorker.Client;
using MemoryWorker.Hosting;
using Microsoft.AspNetCore.Diagnostics.HealthChecks;
using WebApi;

var builder = WebApplication.CreateBuilder(args);
builder.Services.AddMemoryWorker(builder.Configuration.GetSection(MemoryWorkerOptions.Section));
builder.Services.AddHealthChecks()
    .AddCheck<DevicesHealthCheck>("devices")
    .AddCheck<PressureHealthCheck>("pressure");
builder.Services.AddProblemDetails();

var app = builder.Build();
app.UseExceptionHandler(); // Faults of this host's own: what the worker refuses is no fault, and ends in Problems.
app.UseStatusCodePages();
app.UseMiddleware<Problems>();

app.MapOperations();
app.MapGet("/openapi.json", () => Results.Bytes(Operations.Document, "application/json"));
app.MapGet("/api/events", EventStream.WriteAsync);
app.MapGet("/monitoring/memory", Monitoring.GetAsync);
app.MapGet("/metrics", async (IServiceMemory memory, CancellationToken token) =>
{
    var metrics = await memory.GetMetricsAsync(token);
    return Results.Text(metrics.Text, metrics.ContentType);
});
app.MapHealthChecks("/health", new() { ResponseWriter = HealthByPart.WriteAsync });
app.MapHealthChecks("/health/live", new() { Predicate = _ => false, ResponseWriter = HealthByPart.WriteAsync });

await app.RunAsync();

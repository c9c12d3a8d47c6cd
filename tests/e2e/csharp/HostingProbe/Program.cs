// A host that says as JSON what it saw of its worker. Arguments: those of the worker's command line.
using System.Collections.Concurrent;
using System.Diagnostics;
using System.Diagnostics.Metrics;
using System.Text.Json;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;
using MemoryWorker.Hosting;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Diagnostics.HealthChecks;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Options;

var logs = new Logs();
var measured = new ConcurrentBag<string>();
var versions = new ConcurrentBag<string?>();
var traced = new ConcurrentQueue<Activity>();
using var meters = new MeterListener
{
    InstrumentPublished = (instrument, listener) =>
    {
        if (instrument.Meter.Name == MemoryWorkerTelemetry.Name)
        {
            versions.Add(instrument.Meter.Version);
            listener.EnableMeasurementEvents(instrument);
        }
    },
};
meters.SetMeasurementEventCallback<double>((instrument, _, tags, _) => measured.Add($"{instrument.Name} {Text(tags)}"));
meters.SetMeasurementEventCallback<long>((instrument, value, tags, _) => measured.Add($"{instrument.Name} {value} {Text(tags)}"));
meters.SetMeasurementEventCallback<int>((instrument, value, tags, _) => measured.Add($"{instrument.Name} {value} {Text(tags)}"));
meters.Start();
using var activities = new ActivityListener
{
    ShouldListenTo = source => source.Name == MemoryWorkerTelemetry.Name,
    Sample = (ref ActivityCreationOptions<ActivityContext> _) => ActivitySamplingResult.AllData,
    ActivityStopped = traced.Enqueue,
};
ActivitySource.AddActivityListener(activities);

var builder = Host.CreateEmptyApplicationBuilder(null);
builder.Logging.AddProvider(logs);
builder.Services.AddMemoryWorker(configure: options =>
{
    options.FileName = args[0];
    args.Skip(1).ToList().ForEach(options.Arguments.Add);
    options.RestartDelay = TimeSpan.FromMinutes(10); // So that it is seen restarting.
});
builder.Configuration.AddInMemoryCollection(new Dictionary<string, string?>
{
    ["MemoryWorker:Worker:AutoOptimize"] = "High",
    ["MemoryWorker:Worker:Plugins:0"] = "mine",
    ["MemoryWorker:Worker:MetricsInterval"] = "00:00:05",
    ["MemoryWorker:Worker:LimitBytes"] = "1048576",
    ["MemoryWorker:Python:Venv"] = "/no/such/venv",
    ["MemoryWorker:Python:Extras:0"] = "torch",
    ["MemoryWorker:MaxRestarts"] = "0",
});
builder.Services.AddKeyedMemoryWorker("configured", builder.Configuration.GetSection(MemoryWorkerOptions.Section), options => options.StartWithHost = false);
builder.Services.AddKeyedMemoryWorker("second", configure: options =>
{
    options.FileName = args[0];
    args.Skip(1).ToList().ForEach(options.Arguments.Add);
    options.StartWithHost = false;
});
using var host = builder.Build();
await host.StartAsync();
var worker = host.Services.GetRequiredService<IPythonWorkerService>();
var memory = host.Services.GetRequiredService<IServiceMemory>();
var exited = new TaskCompletionSource();
worker.WorkerExited += (_, _) => throw new InvalidOperationException("a handler that throws");
worker.WorkerExited += (_, _) => exited.TrySetResult();

var second = host.Services.GetRequiredKeyedService<IPythonWorkerService>("second");
var unstarted = second.Snapshot.State;
await second.StartAsync();
await host.Services.GetRequiredKeyedService<IServiceMemory>("second").PingAsync();
var keyed = new
{
    unstarted = unstarted.ToString(),
    running = second.Snapshot.State.ToString(),
    apart = second.Snapshot.ProcessId != worker.Snapshot.ProcessId,
    health = await HealthAsync("memory_worker_second"),
    twice = Refused(() => builder.Services.AddKeyedMemoryWorker("second")),
};
var unprepared = "none";
try
{
    await host.Services.GetRequiredKeyedService<IPythonWorkerService>("configured").StartAsync();
}
catch (PythonEnvironmentException problem)
{
    unprepared = $"{problem.Problem}: {problem.Message}";
}

// What a section of appsettings.json may be wrong in: each host's start says so.
var sections = new Dictionary<string, string>();
foreach (var (name, json) in new Dictionary<string, string>
{
    ["typo"] = """{ "MemoryWorker": { "FilName": "x", "Worker": { "Plugin": ["x"] }, "Python": { "Extra": ["x"], "Nonsense": 1 } } }""",
    ["value"] = """{ "MemoryWorker": { "MaxRestarts": "many" } }""",
    ["word"] = """{ "MemoryWorker": { "Worker": { "AutoOptimize": "Hihg" } } }""",
    ["known"] = """{ "MemoryWorker": { "arguments": ["-c", "pass"], "Environment": { "ANY": "1" }, "Worker": { "SimulatedDevices": ["1GiB"] } } }""",
    ["empty"] = """{ "MemoryWorker": { "Python": {} } }""",
})
{
    var application = Host.CreateEmptyApplicationBuilder(null);
    application.Configuration.AddJsonStream(new MemoryStream(System.Text.Encoding.UTF8.GetBytes(json)));
    application.Services.AddMemoryWorker(
        application.Configuration.GetSection(MemoryWorkerOptions.Section), options => options.StartWithHost = false);
    sections[name] = await StartAsync(application);
}

// A whole configuration: a host's own, in which the worker's section is or is not, and one of the worker's alone.
foreach (var (name, settings) in new Dictionary<string, Dictionary<string, string?>>
{
    ["whole"] = new() { ["MemoryWorker:MaxRestarts"] = "0", ["AllowedHosts"] = "*" },
    ["whole of others"] = new() { ["AllowedHosts"] = "*", ["Logging:LogLevel:Default"] = "Warning" },
    ["own"] = new() { ["MaxRestarts"] = "0" },
    ["own with a typo"] = new() { ["MaxRestarts"] = "0", ["FilName"] = "x" },
    ["own of nothing"] = [],
})
{
    var whole = Host.CreateEmptyApplicationBuilder(null);
    whole.Configuration.AddInMemoryCollection(settings);
    whole.Configuration.AddEnvironmentVariables();
    whole.Services.AddMemoryWorker(whole.Configuration, options => options.StartWithHost = false);
    sections[name] = await StartAsync(whole);
}

var healthy = await HealthAsync();
var echo = await AskAsync("fake.echo");
await AskAsync("fake.complain", """{"lines": ["{\"level\": \"error\", \"message\": \"the device is hot\"}"]}""");
const string about = """\"request_id\": \"a-1\", \"traceparent\": \"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\", \"model_id\": \"m\" """;
await AskAsync("fake.complain", $$"""{"lines": ["{\"level\": \"warning\", \"message\": \"slow\", {{about}}}"]}""");
var code = "none";
try
{
    await AskAsync("fake.refuse", """{"code": "out_of_memory"}""");
}
catch (WorkerException problem)
{
    code = problem.Code;
}

await memory.PostMemoryAllocateAsync(new PostMemoryAllocateRequest { SizeBytes = 1 });
await AskAsync("fake.garbage", """{"lines": ["junk"]}""");
Process.GetProcessById(worker.Snapshot.ProcessId!.Value).Kill();
await exited.Task;
var degraded = await HealthAsync();
meters.RecordObservableInstruments();
await host.StopAsync();
var stopped = await HealthAsync();

Console.WriteLine(JsonSerializer.Serialize(new
{
    keyed,
    unprepared,
    sections,
    extras = host.Services.GetRequiredService<IOptionsMonitor<MemoryWorkerOptions>>().Get("configured").Python!.Extras,
    configured = host.Services.GetRequiredService<IOptionsMonitor<MemoryWorkerOptions>>().Get("configured").Worker.ToArguments(),
    version = new[] { versions.Distinct().Single(), traced.Select(one => one.Source.Version).Distinct().Single() },
    ended = second.Snapshot.State.ToString(),
    healthy,
    degraded,
    stopped,
    code,
    traceparent = echo.Value.GetProperty("meta").GetProperty("traceparent").GetString(),
    traces = traced.Select(one => $"{one.OperationName} {one.Id} {one.GetTagItem("error.type")}"),
    metrics = measured.Distinct().Order(),
    logs = logs.Lines,
}));

async Task<string> HealthAsync(string check = "memory_worker") =>
    (await host.Services.GetRequiredService<HealthCheckService>().CheckHealthAsync()).Entries[check].Status.ToString();

static string Refused(Action action)
{
    try
    {
        action();
        return "nothing";
    }
    catch (ArgumentException problem)
    {
        return problem.Message;
    }
}

static async Task<string> StartAsync(HostApplicationBuilder application)
{
    using var host = application.Build();
    try
    {
        await host.StartAsync();
        var python = host.Services.GetRequiredService<IOptions<MemoryWorkerOptions>>().Value.Python;
        await host.StopAsync();
        return $"started, {(python is null ? "no environment" : "an environment")}";
    }
    catch (Exception problem) when (problem is OptionsValidationException or InvalidOperationException)
    {
        return problem.Message;
    }
}

Task<JsonData> AskAsync(string action, string data = "{}") =>
    worker.ExecuteAsync(WireAction.Plain(action), JsonData.Parse(data));

static string Text(ReadOnlySpan<KeyValuePair<string, object?>> tags) => string.Join(" ", tags.ToArray().Select(one => $"{one.Key}={one.Value}"));

internal sealed class Logs : ILoggerProvider, ILogger
{
    private readonly LoggerExternalScopeProvider _scopes = new();

    public ConcurrentQueue<string> Lines { get; } = [];

    public ILogger CreateLogger(string categoryName) => this;

    public IDisposable? BeginScope<TState>(TState state)
        where TState : notnull => _scopes.Push(state);

    public bool IsEnabled(LogLevel logLevel) => true;

    public void Log<TState>(
        LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
    {
        if (eventId.Name?.StartsWith("Worker", StringComparison.Ordinal) == true)
        {
            var about = string.Empty;
            _scopes.ForEachScope(
                (scope, _) => about += string.Concat(
                    ((IEnumerable<KeyValuePair<string, object?>>)scope!).Select(one => $" [{one.Key} {one.Value}]")),
                0);
            Lines.Enqueue($"{logLevel} {eventId.Id} {eventId.Name}: {formatter(state, exception)}{about}");
        }
    }

    public void Dispose()
    {
    }
}

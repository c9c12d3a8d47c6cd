// A host with a MemoryCache of some hundred MB that its worker may make room from; says as JSON what it saw.
// Arguments: PYTHON FOLDER.
using System.Diagnostics;
using System.Text.Json;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;
using MemoryWorker.Hosting;
using Microsoft.Extensions.Caching.Memory;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Options;

const int EntryBytes = 64 << 10;
const long MachineBytes = 2L << 30, CacheBytes = 400 << 20, LimitBytes = 480 << 20, NeededBytes = 200 << 20;

var builder = Host.CreateEmptyApplicationBuilder(null);
builder.Logging.AddConsole(console => console.LogToStandardErrorThreshold = LogLevel.Trace);
builder.Services.AddMemoryCache(options => options.SizeLimit = LimitBytes);
builder.Services.AddMemoryWorker(configure: options =>
{
    options.FileName = args[0];
    options.WorkingDirectory = args[1];
    options.Arguments.Add("-m");
    options.Arguments.Add("worker");
    options.Worker = new WorkerOptions { Plugins = ["tests.rigs.host_sized_machine"], DefaultDevice = "cpu", PoolBytes = 0 };
    options.Environment["MEMORY_WORKER_MACHINE_BYTES"] = $"{MachineBytes}";
});
builder.Services.AddMemoryCacheConsumer(
    "responses", new MemoryCacheConsumerOptions { RebuildTime = TimeSpan.FromMilliseconds(2), FloorBytes = 64 << 20 });
builder.Services.AddMemoryConsumer<Stubborn>();
builder.Services.AddMemoryConsumer<Misnamed>();
using var host = builder.Build();
var cache = host.Services.GetRequiredService<IMemoryCache>();
var cacheOptions = host.Services.GetRequiredService<IOptions<MemoryCacheOptions>>().Value;
Fill(0, (int)(CacheBytes / EntryBytes));
GC.Collect();
await host.StartAsync();
var memory = host.Services.GetRequiredService<IServiceMemory>();
var worker = host.Services.GetRequiredService<IPythonWorkerService>();
var consumers = host.Services.GetRequiredService<MemoryConsumers>();

// It is known, with what it holds and what that is worth.
var known = await UntilAsync("responses", one => one.HeldBytes == CacheBytes);
var registered = new { known.HeldBytes, known.FloorBytes, known.Kind, known.DeviceId, priced = known.PriceMsPerMib > 0 };
await UntilAsync("stubborn", _ => true);

// More is needed than there is: the cache gives it.
var before = Rss();
var available = (await memory.GetMemoryStatusDeviceAsync("cpu", new MemoryStatusOptions { Refresh = true })).Device.AvailableBytes!.Value;
var watch = Stopwatch.StartNew();
var made = await memory.PostMemoryAllocateAsync(new PostMemoryAllocateRequest
{
    SizeBytes = available + NeededBytes,
    Initialize = Initialize.None,
    DeviceId = "cpu",
    MakeRoom = true,
});
watch.Stop();
var after = Rss();
var gave = made.Released.Where(one => one.ConsumerId == "responses").ToList();
var held = cache.Get<byte[]>("entry 0") is null ? "the oldest went" : "the oldest stayed";
var recent = cache.Get<byte[]>($"entry {(CacheBytes / EntryBytes) - 1}") is null ? "the newest went" : "the newest stayed";
var limit = cacheOptions.SizeLimit;
Fill(100_000, 4000); // 250 MiB more: its limit holds.
await UntilTrueAsync(() => Held() <= limit);
await memory.DeleteMemoryAllocationAsync(made.AllocationId);

// Its worker dies: the next one knows it.
var exited = new TaskCompletionSource();
worker.WorkerExited += (_, _) => exited.TrySetResult();
Process.GetProcessById(worker.Snapshot.ProcessId!.Value).Kill();
await exited.Task;
var again = await UntilAsync("responses", one => one.HeldBytes > 0);
await consumers.DisposeAsync();
var left = (await memory.GetConsumersAsync()).Consumers.Count(one => one.Kind != "pool");
await host.StopAsync();

Console.WriteLine(JsonSerializer.Serialize(new
{
    registered,
    claimed = gave.Sum(one => one.ClaimedBytes),
    returned = gave.Sum(one => one.ReturnedBytes),
    rss_fell = before - after,
    took_ms = watch.ElapsedMilliseconds,
    order = new[] { held, recent },
    limit,
    full = LimitBytes,
    known_again = again.ConsumerId,
    left,
    released = made.Released.Select(one => $"{one.ConsumerId} {one.ClaimedBytes} {one.ReturnedBytes}"),
}));

void Fill(int from, int count)
{
    for (var number = from; number < from + count; number++)
    {
        var entry = new byte[EntryBytes];
        entry.AsSpan().Fill(1);
        cache.Set($"entry {number}", entry, new MemoryCacheEntryOptions { Size = EntryBytes });
    }
}

long Held() => ((MemoryCache)cache).GetCurrentStatistics()!.CurrentEstimatedSize!.Value;

async Task<ConsumerStatus> UntilAsync(string id, Func<ConsumerStatus, bool> wanted)
{
    while (true)
    {
        if ((await memory.GetConsumersAsync()).Consumers.FirstOrDefault(one => one.ConsumerId == id) is { } found && wanted(found))
        {
            return found;
        }

        consumers.Renew();
        await Task.Delay(10);
    }
}

static async Task UntilTrueAsync(Func<bool> holds)
{
    while (!holds())
    {
        await Task.Delay(10);
    }
}

static long Rss()
{
    using var own = Process.GetCurrentProcess();
    return own.WorkingSet64;
}

/// <summary>Has a name that the worker keeps for its own.</summary>
internal sealed class Misnamed : IMemoryConsumer
{
    public string Id => "model:mine";

    public MemoryHolding Describe() => new() { HeldBytes = 0 };

    public ValueTask<long> ReleaseAsync(MemoryReleaseRequest request, CancellationToken cancellationToken) => new(0);
}

/// <summary>Cheaper than everything else, and throws when it is asked.</summary>
internal sealed class Stubborn : IMemoryConsumer
{
    public string Id => "stubborn";

    public MemoryHolding Describe() => new() { HeldBytes = 1 << 20, Offers = [new(1 << 20, TimeSpan.FromMicroseconds(1))] };

    public ValueTask<long> ReleaseAsync(MemoryReleaseRequest request, CancellationToken cancellationToken) =>
        throw new InvalidOperationException("it does not");
}

// How much of what a MemoryCache gives up leaves the process, and how long that takes, by what is done about garbage.
// Arguments: ROUNDS. Prints one JSON object; benchmarks/csharp_cache_release.py runs it and says what it means.
using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using MemoryWorker.Client;
using MemoryWorker.Hosting;
using Microsoft.Extensions.Caching.Memory;

const int HeldBytes = 256 << 20, GivenBytes = 128 << 20;
var rounds = int.Parse(args[0], CultureInfo.InvariantCulture);
var ways = new (string Name, Action Collect)[]
{
    ("nothing", () => { }),
    ("GC.Collect()", GC.Collect),
    ("forced, compacting", () => GC.Collect(GC.MaxGeneration, GCCollectionMode.Forced, blocking: true, compacting: true)),
    ("aggressive", () => GC.Collect(GC.MaxGeneration, GCCollectionMode.Aggressive, blocking: true, compacting: true)),
};
var figures = new Dictionary<string, List<(double Share, double Milliseconds)>>();
for (var round = 0; round <= rounds; round++)
{
    foreach (var entryBytes in new[] { 4 << 10, 128 << 10 }) // In the small objects' heap, and in the large ones'.
    {
        foreach (var (name, collect) in ways)
        {
            var measured = Measure(entryBytes, collect);
            if (round > 0) // The first round warms up.
            {
                var key = $"{entryBytes >> 10} KiB {name}";
                (figures.TryGetValue(key, out var kept) ? kept : figures[key] = []).Add(measured);
            }
        }
    }
}

Console.WriteLine(JsonSerializer.Serialize(figures.ToDictionary(
    one => one.Key, one => new[] { Median(one.Value.Select(each => each.Share)), Median(one.Value.Select(each => each.Milliseconds)) })));

static (double Share, double Milliseconds) Measure(int entryBytes, Action collect)
{
    GC.Collect(GC.MaxGeneration, GCCollectionMode.Aggressive, blocking: true, compacting: true);
    var options = new MemoryCacheOptions { SizeLimit = 2L * HeldBytes, TrackStatistics = true };
    using var cache = new MemoryCache(options);
    for (var number = 0; number < HeldBytes / entryBytes; number++)
    {
        var entry = new byte[entryBytes];
        entry.AsSpan().Fill(1);
        cache.Set(number, entry, new MemoryCacheEntryOptions { Size = entryBytes });
    }

    GC.Collect(); // As a host that has run for a while: what is held is old.
    var consumer = new MemoryCacheConsumer(
        "cache", cache, options, new MemoryCacheConsumerOptions { RebuildTime = TimeSpan.FromMilliseconds(1), CollectGarbage = false });
    var before = Rss();
    var request = new MemoryReleaseRequest { Bytes = GivenBytes, LimitBytes = HeldBytes, Reason = "measured", Wait = TimeSpan.FromSeconds(5) };
    var released = consumer.ReleaseAsync(request, CancellationToken.None).Result;
    var start = Stopwatch.GetTimestamp();
    collect();
    var took = Stopwatch.GetElapsedTime(start).TotalMilliseconds;
    return ((before - Rss()) / (double)released, took);
}

static long Rss()
{
    using var own = Process.GetCurrentProcess();
    return own.WorkingSet64;
}

static double Median(IEnumerable<double> values)
{
    var sorted = values.Order().ToList();
    return Math.Round(sorted[sorted.Count / 2], 3);
}

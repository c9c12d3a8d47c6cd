using System.Diagnostics;
using System.Diagnostics.Metrics;
using MemoryWorker.Client;

namespace MemoryWorker.Hosting;

/// <summary>
/// The names under which traces and metrics are found. Attributes are OpenTelemetry's: <c>rpc.system</c>, <c>rpc.service</c>,
/// <c>rpc.method</c> and, where a call failed, <c>error.type</c>; of several workers each has its key as
/// <c>service.instance.id</c>.
/// </summary>
public sealed class MemoryWorkerTelemetry : IDisposable
{
    /// <summary>Of the <see cref="ActivitySource"/> and the <see cref="Meter"/>, whose version is this library's.</summary>
    public const string Name = "MemoryWorker";

    /// <summary>The value of <c>rpc.system</c>.</summary>
    private const string System = "memory_worker";

    private static readonly string Version = typeof(MemoryWorkerTelemetry).Assembly.GetName().Version?.ToString(3) ?? "0.0.0";

    private readonly ActivitySource _source = new(Name, Version);
    private readonly Meter _meter;
    private readonly Histogram<double> _duration;
    private readonly Counter<long> _exits;
    private readonly Counter<long> _lost;

    /// <summary>Sets the instruments up.</summary>
    public MemoryWorkerTelemetry(IMeterFactory meters)
    {
        ArgumentNullException.ThrowIfNull(meters);
        _meter = meters.Create(new MeterOptions(Name) { Version = Version });
        _duration = _meter.CreateHistogram<double>(
            "memory_worker.request.duration", "s", "Time from the call to its end, by method and error");
        _exits = _meter.CreateCounter<long>("memory_worker.exits", "{process}", "Workers that ended unasked");
        _lost = _meter.CreateCounter<long>("memory_worker.lost_allocations", "{allocation}", "Allocations that went with them");
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _source.Dispose();
        _meter.Dispose();
    }

    internal void Watch(IPythonWorkerService worker, string? key)
    {
        TagList instance = Instance(key);
        _meter.CreateObservableGauge(
            "memory_worker.requests.in_flight",
            () => new Measurement<int>(worker.Snapshot.InFlight, instance),
            "{request}",
            "Requests without a reply");
        _meter.CreateObservableCounter(
            "memory_worker.junk_lines",
            () => new Measurement<long>(worker.Snapshot.JunkLines, instance),
            "{line}",
            "Lines on the worker's stdout that were no frame");
        worker.WorkerExited += (_, exited) =>
        {
            _exits.Add(1, instance);
            _lost.Add(exited.LostAllocations.Count, instance);
        };
    }

    internal async Task<T> MeasureAsync<T>(string action, string? key, Func<Task<T>> call)
    {
        var tags = Instance(key);
        var dot = action.IndexOf('.', StringComparison.Ordinal);
        tags.Add("rpc.system", System);
        tags.Add("rpc.service", dot < 0 ? string.Empty : action[..dot]);
        tags.Add("rpc.method", action[(dot + 1)..]);
        // Its id travels in the request's meta.traceparent, so the worker's logs can be found by it.
        using var activity = _source.StartActivity(ActivityKind.Client, tags: tags, name: action);
        var start = Stopwatch.GetTimestamp();
        try
        {
            return await call().ConfigureAwait(false);
        }
        catch (Exception problem)
        {
            var error = problem switch
            {
                WorkerException failed => failed.Code,
                OperationCanceledException => "cancelled",
                _ => problem.GetType().FullName,
            };
            tags.Add("error.type", error);
            activity?.SetTag("error.type", error);
            activity?.SetStatus(ActivityStatusCode.Error, problem is WorkerException ? problem.Message : null);
            throw;
        }
        finally
        {
            _duration.Record(Stopwatch.GetElapsedTime(start).TotalSeconds, tags);
        }
    }

    internal static string LoggerName(string? key) => key is null ? Name : $"{Name}.{key}";

    private static TagList Instance(string? key) => key is null ? [] : new TagList { { "service.instance.id", key } };
}

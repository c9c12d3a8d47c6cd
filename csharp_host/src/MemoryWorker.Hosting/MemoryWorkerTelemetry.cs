using System.Diagnostics;
using System.Diagnostics.Metrics;
using MemoryWorker.Client;

namespace MemoryWorker.Hosting;

/// <summary>The names under which traces and metrics are found.</summary>
public sealed class MemoryWorkerTelemetry : IDisposable
{
    /// <summary>Of the <see cref="ActivitySource"/> and the <see cref="Meter"/>.</summary>
    public const string Name = "MemoryWorker";

    private readonly ActivitySource _source = new(Name);
    private readonly Meter _meter;
    private readonly Histogram<double> _duration;
    private readonly Counter<long> _exits;
    private readonly Counter<long> _lost;

    /// <summary>Sets the instruments up.</summary>
    public MemoryWorkerTelemetry(IMeterFactory meters)
    {
        ArgumentNullException.ThrowIfNull(meters);
        _meter = meters.Create(Name);
        _duration = _meter.CreateHistogram<double>(
            "memory_worker.request.duration", "s", "Time from the call to its end, by action and outcome");
        _exits = _meter.CreateCounter<long>("memory_worker.exits", "{process}", "Workers that ended unasked");
        _lost = _meter.CreateCounter<long>("memory_worker.lost_allocations", "{allocation}", "Allocations that went with them");
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _source.Dispose();
        _meter.Dispose();
    }

    internal void Watch(IPythonWorkerService worker)
    {
        _meter.CreateObservableGauge(
            "memory_worker.requests.in_flight", () => worker.Snapshot.InFlight, "{request}", "Requests without a reply");
        _meter.CreateObservableCounter(
            "memory_worker.junk_lines", () => worker.Snapshot.JunkLines, "{line}", "Lines on the worker's stdout that were no frame");
        worker.WorkerExited += (_, exited) =>
        {
            _exits.Add(1);
            _lost.Add(exited.LostAllocations.Count);
        };
    }

    internal async Task<T> MeasureAsync<T>(string action, Func<Task<T>> call)
    {
        // Its id travels in the request's meta.traceparent, so the worker's logs can be found by it.
        using var activity = _source.StartActivity(action, ActivityKind.Client);
        var start = Stopwatch.GetTimestamp();
        var outcome = "ok";
        try
        {
            return await call().ConfigureAwait(false);
        }
        catch (Exception problem)
        {
            outcome = problem switch
            {
                WorkerException failed => failed.Code,
                OperationCanceledException => "cancelled",
                _ => problem.GetType().Name,
            };
            activity?.SetStatus(ActivityStatusCode.Error, outcome);
            throw;
        }
        finally
        {
            activity?.SetTag("memory_worker.outcome", outcome);
            _duration.Record(
                Stopwatch.GetElapsedTime(start).TotalSeconds,
                new KeyValuePair<string, object?>("action", action),
                new KeyValuePair<string, object?>("outcome", outcome));
        }
    }
}

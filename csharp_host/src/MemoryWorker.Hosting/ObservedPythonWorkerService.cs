using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;
using Microsoft.Extensions.Logging;

namespace MemoryWorker.Hosting;

/// <summary>A worker service whose calls are traced and measured, and whose news are logged.</summary>
internal sealed class ObservedPythonWorkerService : IPythonWorkerService
{
    private readonly PythonWorkerService _worker;
    private readonly MemoryWorkerTelemetry _telemetry;
    private readonly string? _key;

    public ObservedPythonWorkerService(PythonWorkerOptions options, MemoryWorkerTelemetry telemetry, ILogger logger, string? key)
    {
        _key = key;
        _worker = new PythonWorkerService(options);
        _telemetry = telemetry;
        _worker.WorkerStarted += (_, started) => logger.Started(started);
        _worker.WorkerExited += (_, exited) => logger.Exited(exited);
        _worker.WorkerStartFailed += (_, problem) => logger.StartFailed(problem);
        _worker.LogReceived += (_, entry) => logger.WorkerSaid(entry);
        _worker.HandlerFailed += (_, failed) => logger.HandlerFailed(failed);
        telemetry.Watch(_worker, key);
    }

    public event EventHandler<WorkerExitedEventArgs>? WorkerExited
    {
        add => _worker.WorkerExited += value;
        remove => _worker.WorkerExited -= value;
    }

    public WorkerSnapshot Snapshot => _worker.Snapshot;

    public Task StartAsync(CancellationToken cancellationToken = default) => _worker.StartAsync(cancellationToken);

    public Task<TResult> ExecuteAsync<TParams, TResult>(
        WireAction<TParams, TResult> action,
        TParams request,
        WorkerCallOptions? options = null,
        CancellationToken cancellationToken = default)
        where TParams : class, IWireRecord<TParams>
        where TResult : class, IWireRecord<TResult>
    {
        ArgumentNullException.ThrowIfNull(action);
        return _telemetry.MeasureAsync(action.Name, _key, () => _worker.ExecuteAsync(action, request, options, cancellationToken));
    }

    public IAsyncEnumerable<WorkerEvent> ReadEventsAsync(
        IReadOnlyCollection<EventName> events, CancellationToken cancellationToken = default) =>
        _worker.ReadEventsAsync(events, cancellationToken);

    public IAsyncEnumerable<WorkerEvent> ReadEventsAsync(
        IReadOnlyCollection<EventName> events, TimeSpan figuresEvery, CancellationToken cancellationToken = default) =>
        _worker.ReadEventsAsync(events, figuresEvery, cancellationToken);

    public ValueTask DisposeAsync() => _worker.DisposeAsync();
}

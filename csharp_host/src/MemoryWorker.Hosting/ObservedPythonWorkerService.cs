using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;
using Microsoft.Extensions.Logging;

namespace MemoryWorker.Hosting;

/// <summary>A worker service whose calls are traced and measured, and whose news are logged.</summary>
internal sealed class ObservedPythonWorkerService : IPythonWorkerService
{
    private readonly PythonWorkerService _worker;
    private readonly MemoryWorkerTelemetry _telemetry;

    public ObservedPythonWorkerService(PythonWorkerOptions options, MemoryWorkerTelemetry telemetry, ILogger logger)
    {
        _worker = new PythonWorkerService(options);
        _telemetry = telemetry;
        _worker.WorkerStarted += (_, started) => logger.Started(started);
        _worker.WorkerExited += (_, exited) => logger.Exited(exited);
        _worker.WorkerStartFailed += (_, problem) => logger.StartFailed(problem);
        _worker.LogReceived += (_, entry) => logger.WorkerSaid(entry);
        telemetry.Watch(_worker);
    }

    public event EventHandler<WorkerExitedEventArgs>? WorkerExited
    {
        add => _worker.WorkerExited += value;
        remove => _worker.WorkerExited -= value;
    }

    public WorkerSnapshot Snapshot => _worker.Snapshot;

    public Task StartAsync(CancellationToken cancellationToken) => _worker.StartAsync(cancellationToken);

    public Task<TResponse> ExecuteAsync<TRequest, TResponse>(
        PythonWorkerTypes type, string command, TRequest request, CancellationToken cancellationToken = default)
        where TRequest : class, IWireRecord<TRequest>
        where TResponse : class, IWireRecord<TResponse> =>
        _telemetry.MeasureAsync(
            command, () => _worker.ExecuteAsync<TRequest, TResponse>(type, command, request, cancellationToken));

    public Task<TResponse> ExecuteAsync<TRequest, TResponse>(
        PythonWorkerTypes type,
        string command,
        TRequest request,
        WorkerCallOptions options,
        CancellationToken cancellationToken = default)
        where TRequest : class, IWireRecord<TRequest>
        where TResponse : class, IWireRecord<TResponse> =>
        _telemetry.MeasureAsync(
            command, () => _worker.ExecuteAsync<TRequest, TResponse>(type, command, request, options, cancellationToken));

    public IAsyncEnumerable<WorkerEvent> ReadEventsAsync(
        IReadOnlyCollection<EventName> events, CancellationToken cancellationToken = default) =>
        _worker.ReadEventsAsync(events, cancellationToken);

    public ValueTask DisposeAsync() => _worker.DisposeAsync();
}

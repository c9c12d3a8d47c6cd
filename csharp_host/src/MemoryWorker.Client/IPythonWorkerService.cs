using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>The host side's seam: one action, typed, to a worker process.</summary>
public interface IPythonWorkerService : IAsyncDisposable
{
    /// <summary>Raised on a thread-pool thread when a worker process has ended; says what was lost with it.</summary>
    event EventHandler<WorkerExitedEventArgs>? WorkerExited;

    /// <summary>Where the worker stands at this moment.</summary>
    WorkerSnapshot Snapshot { get; }

    /// <summary>Starts the worker now instead of with the first call.</summary>
    /// <exception cref="WorkerStartException">It could not be started, or the breaker is open.</exception>
    /// <exception cref="OperationCanceledException">The token was cancelled; the start goes on.</exception>
    /// <exception cref="ObjectDisposedException">The service was disposed.</exception>
    Task StartAsync(CancellationToken cancellationToken = default);

    /// <summary>Sends one action and returns its answer; starts the worker if none runs.</summary>
    /// <param name="action">A row of <see cref="WireActions"/>, or any other by <see cref="WireAction.Plain"/>.</param>
    /// <param name="request">What the action takes.</param>
    /// <param name="options">How this call differs from the others; null where it does not.</param>
    /// <param name="cancellationToken">Cancels the work itself, not only the wait.</param>
    /// <exception cref="WorkerRequestException">The worker refused or failed the request.</exception>
    /// <exception cref="WorkerStartException">No worker could be started, or the breaker is open.</exception>
    /// <exception cref="WorkerExitedException">The worker died, and the request may not be sent again.</exception>
    /// <exception cref="WorkerProtocolException">The answer could not be read.</exception>
    /// <exception cref="WorkerTimeoutException">The time of <see cref="PythonWorkerOptions.RequestTimeout"/> ran out.</exception>
    /// <exception cref="OperationCanceledException">The token was cancelled; it is carried by the exception.</exception>
    /// <exception cref="ObjectDisposedException">The service was disposed.</exception>
    Task<TResult> ExecuteAsync<TParams, TResult>(
        WireAction<TParams, TResult> action,
        TParams request,
        WorkerCallOptions? options = null,
        CancellationToken cancellationToken = default)
        where TParams : class, IWireRecord<TParams>
        where TResult : class, IWireRecord<TResult>;

    /// <summary>
    /// Events as they come, from this worker and its successors, until the token is cancelled. A reader that falls
    /// 1,024 events behind loses the oldest, which shows as a gap in <see cref="WorkerEvent.Sequence"/>. The worker
    /// sends what any reader asked for, until the last such reader has left.
    /// </summary>
    /// <exception cref="WorkerStartException">No worker could be started.</exception>
    /// <exception cref="WorkerRequestException">The worker, or a successor of it, refuses to send them.</exception>
    /// <exception cref="WorkerTimeoutException">The worker does not answer.</exception>
    /// <exception cref="OperationCanceledException">The token was cancelled.</exception>
    IAsyncEnumerable<WorkerEvent> ReadEventsAsync(
        IReadOnlyCollection<EventName> events, CancellationToken cancellationToken = default);

    /// <summary>
    /// As without a time, which is how often <see cref="EventName.MemoryFigures"/> comes where it is among the events: at once,
    /// and then after so long each time. Of several readers the one that wants it most often decides.
    /// </summary>
    /// <exception cref="WorkerRequestException">The time is below a second, or above a day.</exception>
    IAsyncEnumerable<WorkerEvent> ReadEventsAsync(
        IReadOnlyCollection<EventName> events, TimeSpan figuresEvery, CancellationToken cancellationToken = default) =>
        ReadEventsAsync(events, cancellationToken);
}

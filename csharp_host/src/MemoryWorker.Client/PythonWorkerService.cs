using System.Diagnostics;
using MemoryWorker.Client.Protocol;
using MemoryWorker.Client.Transport;

namespace MemoryWorker.Client;

/// <summary>
/// Starts the worker, speaks the protocol with it and replaces it when it dies. Any number of calls at a time, from any
/// thread. Events are raised on threads of the service; what a handler throws is told by <see cref="HandlerFailed"/>.
/// </summary>
public sealed class PythonWorkerService : IPythonWorkerService, IWorkerSink
{
    private const int MaxRefusals = 8;
    private const int WaitingLogs = 4096;
    private const int WaitingReports = 4096;

    private readonly PythonWorkerOptions _options;
    private readonly WorkerSupervisor _supervisor;
    private readonly EventSubscription _events;
    private readonly Relay<WorkerLogEntry> _logs;

    /// <summary>Prepares the service; the worker starts with <see cref="StartAsync"/> or the first call.</summary>
    /// <exception cref="ArgumentException">An option makes no sense.</exception>
    public PythonWorkerService(PythonWorkerOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        _options = options;
        _supervisor = new WorkerSupervisor(options, this);
        _events = new EventSubscription(_supervisor, options.StartTimeout);
        _logs = new(entry => Raise(LogReceived, entry, nameof(LogReceived)), WaitingLogs, options.TimeProvider);
    }

    /// <inheritdoc/>
    public event EventHandler<WorkerExitedEventArgs>? WorkerExited;

    /// <summary>Raised when a worker has answered for the first time.</summary>
    public event EventHandler<WorkerStartedEventArgs>? WorkerStarted;

    /// <summary>Raised when a worker could not be started; another try follows unless the breaker opened.</summary>
    public event EventHandler<WorkerStartException>? WorkerStartFailed;

    /// <summary>
    /// Raised in order for every line on the worker's stderr, and for junk on its stdout. A handler that falls 4,096 lines
    /// behind loses the oldest; one that hangs holds up nothing else.
    /// </summary>
    public event EventHandler<WorkerLogEntry>? LogReceived;

    /// <summary>Raised when a handler of another event, or of progress, threw. Without a handler it goes to <see cref="Trace"/>.</summary>
    public event EventHandler<WorkerHandlerFailedEventArgs>? HandlerFailed;

    /// <inheritdoc/>
    public WorkerSnapshot Snapshot => _supervisor.Snapshot;

    /// <inheritdoc/>
    public async Task StartAsync(CancellationToken cancellationToken = default) =>
        await _supervisor.ConnectAsync(cancellationToken).ConfigureAwait(false);

    /// <inheritdoc/>
    public Task<TResult> ExecuteAsync<TParams, TResult>(
        WireAction<TParams, TResult> action,
        TParams request,
        WorkerCallOptions? options = null,
        CancellationToken cancellationToken = default)
        where TParams : class, IWireRecord<TParams>
        where TResult : class, IWireRecord<TResult>
    {
        ArgumentNullException.ThrowIfNull(action);
        ArgumentNullException.ThrowIfNull(request);
        var time = options?.Timeout ?? _options.RequestTimeout;
        if (time != Timeout.InfiniteTimeSpan)
        {
            PythonWorkerOptions.Positive(time, nameof(options.Timeout));
        }

        if (options is { IsRead: true } && WireActions.Find(action.Name) is null)
        {
            action = action with { Changes = false };
        }

        return options?.Progress is { } handler
            ? RelayAsync(action, request, time, handler, cancellationToken)
            : ExecuteAsync(action, request, time, null, cancellationToken);
    }

    /// <inheritdoc/>
    public IAsyncEnumerable<WorkerEvent> ReadEventsAsync(
        IReadOnlyCollection<EventName> events, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(events);
        return _events.ReadAsync(events, null, cancellationToken);
    }

    /// <inheritdoc/>
    public IAsyncEnumerable<WorkerEvent> ReadEventsAsync(
        IReadOnlyCollection<EventName> events, TimeSpan figuresEvery, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(events);
        return _events.ReadAsync(events, figuresEvery, cancellationToken);
    }

    /// <summary>
    /// Ends the worker: asks it to, closes its input, waits, kills it. Calls in flight end with an exception. Completes,
    /// for every caller, when the process has ended.
    /// </summary>
    public async ValueTask DisposeAsync()
    {
        _events.Complete(new ObjectDisposedException(nameof(PythonWorkerService)));
        await _supervisor.DisposeAsync().ConfigureAwait(false);
        await _logs.DrainAsync(CancellationToken.None).ConfigureAwait(false);
        _logs.Close();
    }

    void IWorkerSink.OnLog(WorkerLogEntry entry) => _logs.Report(entry);

    void IWorkerSink.OnEvent(WorkerEvent one) => _events.Publish(one);

    Task IWorkerSink.OnConnectedAsync(WorkerConnection connection, CancellationToken cancellationToken) =>
        _events.ResubscribeAsync(connection, cancellationToken);

    void IWorkerSink.OnStarted(WorkerStartedEventArgs started) => RaiseLater(WorkerStarted, started, nameof(WorkerStarted));

    void IWorkerSink.OnExited(WorkerExitedEventArgs exited) => RaiseLater(WorkerExited, exited, nameof(WorkerExited));

    void IWorkerSink.OnStartFailed(WorkerStartException problem) =>
        RaiseLater(WorkerStartFailed, problem, nameof(WorkerStartFailed));

    private void RaiseLater<T>(EventHandler<T>? handlers, T one, string name) =>
        ThreadPool.UnsafeQueueUserWorkItem(_ => Raise(handlers, one, name), null);

    /// <summary>Calls each handler. What one throws must stop neither the others, nor the reader of a pipe, nor the host.</summary>
    private void Raise<T>(EventHandler<T>? handlers, T one, string name)
    {
        foreach (var handler in handlers?.GetInvocationList() ?? [])
        {
            try
            {
                ((EventHandler<T>)handler)(this, one);
            }
            catch (Exception problem)
            {
                OnHandlerFailed(name, problem);
            }
        }
    }

    private void OnHandlerFailed(string name, Exception problem)
    {
        try
        {
            if (HandlerFailed is { } handlers)
            {
                handlers(this, new WorkerHandlerFailedEventArgs(name, problem));
                return;
            }
        }
        catch (Exception further)
        {
            problem = new AggregateException(problem, further);
        }

        Trace.TraceError($"{nameof(PythonWorkerService)}: a handler of {name} threw {problem}");
    }

    private async Task<TResult> RelayAsync<TParams, TResult>(
        WireAction<TParams, TResult> action,
        TParams request,
        TimeSpan time,
        IProgress<ProgressData> handler,
        CancellationToken cancellationToken)
        where TParams : class, IWireRecord<TParams>
        where TResult : class, IWireRecord<TResult>
    {
        var relay = new Relay<ProgressData>(Report, WaitingReports, _options.TimeProvider);
        try
        {
            var result = await ExecuteAsync(action, request, time, relay, cancellationToken).ConfigureAwait(false);
            await relay.DrainAsync(cancellationToken).ConfigureAwait(false);
            return result;
        }
        finally
        {
            relay.Close();
        }

        void Report(ProgressData data)
        {
            try
            {
                handler.Report(data);
            }
            catch (Exception problem)
            {
                OnHandlerFailed(nameof(WorkerCallOptions.Progress), problem);
            }
        }
    }

    /// <summary>
    /// 1. Ends in a reply, an error, a timeout or a cancellation: that is the answer.
    /// 2. The worker died before a byte was written: sent to the next one.
    /// 3. It died with a read in flight, for the first time: sent to the next one.
    /// 4. It died with a change in flight, or with a read for the second time: the caller decides.
    /// 5. The worker has more in flight than it admits, and than this host knows of: sent again, a few times,
    ///    since nothing was executed.
    /// 6. The worker is shutting down, but not at this host's wish: sent to the next one, for the same reason.
    /// </summary>
    private async Task<TResult> ExecuteAsync<TParams, TResult>(
        WireAction<TParams, TResult> action,
        TParams request,
        TimeSpan time,
        IProgress<ProgressData>? progress,
        CancellationToken cancellationToken)
        where TParams : class, IWireRecord<TParams>
        where TResult : class, IWireRecord<TResult>
    {
        var endless = time == Timeout.InfiniteTimeSpan;
        using var timeout = endless ? null : new CancellationTokenSource(time, _options.TimeProvider);
        var limit = endless ? default : new CallLimit(time, timeout!.Token, _options.TimeProvider.GetTimestamp());
        for (int deaths = 0, refusals = 0; ;)
        {
            var connection = await ConnectAsync(action.Name, limit, cancellationToken).ConfigureAwait(false);
            var call = connection.NewCall(action, request, progress);
            try
            {
                return await connection.SendAsync(call, limit, cancellationToken).ConfigureAwait(false); // 1
            }
            catch (WorkerExitedException) when (!call.Written && !_supervisor.IsDisposed)
            {
                // 2
            }
            catch (WorkerExitedException) when (!call.Changes && deaths == 0 && !_supervisor.IsDisposed)
            {
                deaths++; // 3, and next time 4
            }
            catch (WorkerRequestException problem)
                when (problem.ErrorCode == ErrorCode.Overloaded && refusals < MaxRefusals)
            {
                refusals++; // 5
                await Task.Delay(RetryAfter(problem), _options.TimeProvider, cancellationToken).ConfigureAwait(false);
            }
            catch (WorkerRequestException problem)
                when (problem is { ErrorCode: ErrorCode.ShuttingDown, Executed: Executed.No }
                    && refusals < MaxRefusals && !_supervisor.IsDisposed)
            {
                refusals++; // 6
                await SuccessorAsync(connection, cancellationToken).ConfigureAwait(false);
            }
        }
    }

    private async Task SuccessorAsync(WorkerConnection connection, CancellationToken cancellationToken)
    {
        var patience = Task.Delay(_options.ShutdownTimeout, _options.TimeProvider, cancellationToken);
        await Task.WhenAny(connection.Ended, patience).ConfigureAwait(false);
        cancellationToken.ThrowIfCancellationRequested();
    }

    private static TimeSpan RetryAfter(WorkerRequestException problem) =>
        problem.Details.TryGetProperty("retry_after_ms", out var wait) && wait.TryGetInt32(out var milliseconds)
            ? TimeSpan.FromMilliseconds(Math.Clamp(milliseconds, 1, 1000))
            : TimeSpan.FromMilliseconds(10);

    private async ValueTask<WorkerConnection> ConnectAsync(string command, CallLimit limit, CancellationToken cancellationToken)
    {
        cancellationToken.ThrowIfCancellationRequested();
        var connecting = _supervisor.ConnectAsync(CancellationToken.None);
        if (connecting.IsCompletedSuccessfully)
        {
            return connecting.Result;
        }

        using var either = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken, limit.Expired);
        try
        {
            return await connecting.AsTask().WaitAsync(either.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException) when (either.IsCancellationRequested)
        {
            cancellationToken.ThrowIfCancellationRequested();
            throw limit.Exceeded($"{command}: waiting for a worker", new WorkerFailure());
        }
    }
}

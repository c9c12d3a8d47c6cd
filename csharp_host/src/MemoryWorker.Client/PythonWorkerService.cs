using System.Runtime.CompilerServices;
using MemoryWorker.Client.Protocol;
using MemoryWorker.Client.Transport;

namespace MemoryWorker.Client;

/// <summary>
/// Starts the worker, speaks the protocol with it and replaces it when it dies. Any number of calls at a time, from any
/// thread. Events are raised on threads of the service; what a handler throws is ignored.
/// </summary>
public sealed class PythonWorkerService : IPythonWorkerService
{
    private const int MaxRefusals = 8;

    private readonly PythonWorkerOptions _options;
    private readonly WorkerSupervisor _supervisor;
    private readonly SemaphoreSlim _subscribing = new(1);

    /// <summary>Prepares the service; the worker starts with <see cref="StartAsync"/> or the first call.</summary>
    /// <exception cref="ArgumentException">An option makes no sense.</exception>
    public PythonWorkerService(PythonWorkerOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        options.Validate();
        _options = options;
        _supervisor = new WorkerSupervisor(options, this);
    }

    /// <inheritdoc/>
    public event EventHandler<WorkerExitedEventArgs>? WorkerExited;

    /// <summary>Raised when a worker has answered for the first time.</summary>
    public event EventHandler<WorkerStartedEventArgs>? WorkerStarted;

    /// <summary>Raised when a worker could not be started; another try follows unless the breaker opened.</summary>
    public event EventHandler<WorkerStartException>? WorkerStartFailed;

    /// <summary>Raised for every line on the worker's stderr, and for junk on its stdout. Must return soon.</summary>
    public event EventHandler<WorkerLogEntry>? LogReceived;

    /// <inheritdoc/>
    public WorkerSnapshot Snapshot => _supervisor.Snapshot;

    internal EventHub Events { get; } = new();

    /// <summary>Starts the worker now instead of with the first call.</summary>
    /// <exception cref="WorkerStartException">It could not be started, or the breaker is open.</exception>
    /// <exception cref="OperationCanceledException">The token was cancelled; the start goes on.</exception>
    /// <exception cref="ObjectDisposedException">The service was disposed.</exception>
    public async Task StartAsync(CancellationToken cancellationToken = default) =>
        await _supervisor.ConnectAsync(cancellationToken).ConfigureAwait(false);

    /// <inheritdoc/>
    public Task<TResponse> ExecuteAsync<TRequest, TResponse>(
        PythonWorkerTypes type, string command, TRequest request, CancellationToken cancellationToken = default)
        where TRequest : class, IWireRecord<TRequest>
        where TResponse : class, IWireRecord<TResponse>
    {
        Check(type, command, request);
        return ExecuteAsync<TRequest, TResponse>(command, request, _options.RequestTimeout, null, cancellationToken);
    }

    /// <inheritdoc/>
    public async Task<TResponse> ExecuteAsync<TRequest, TResponse>(
        PythonWorkerTypes type,
        string command,
        TRequest request,
        WorkerCallOptions options,
        CancellationToken cancellationToken = default)
        where TRequest : class, IWireRecord<TRequest>
        where TResponse : class, IWireRecord<TResponse>
    {
        Check(type, command, request);
        ArgumentNullException.ThrowIfNull(options);
        var time = options.Timeout ?? _options.RequestTimeout;
        if (time != Timeout.InfiniteTimeSpan)
        {
            PythonWorkerOptions.Positive(time, nameof(options.Timeout));
        }

        if (options.Progress is not { } handler)
        {
            return await ExecuteAsync<TRequest, TResponse>(command, request, time, null, cancellationToken).ConfigureAwait(false);
        }

        var relay = new ProgressRelay(handler);
        try
        {
            return await ExecuteAsync<TRequest, TResponse>(command, request, time, relay, cancellationToken).ConfigureAwait(false);
        }
        finally
        {
            await relay.CompleteAsync().ConfigureAwait(false);
        }
    }

    /// <inheritdoc/>
    public async IAsyncEnumerable<WorkerEvent> ReadEventsAsync(
        IReadOnlyCollection<EventName> events, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(events);
        var reader = Events.Add(events);
        try
        {
            await SubscribeAsync(cancellationToken).ConfigureAwait(false);
            await foreach (var one in reader.Events.ReadAllAsync(cancellationToken).ConfigureAwait(false))
            {
                yield return one;
            }
        }
        finally
        {
            Events.Remove(reader);
        }
    }

    /// <summary>Ends the worker: asks it to, closes its input, waits, kills it. Calls in flight end with an exception.</summary>
    public async ValueTask DisposeAsync()
    {
        Events.Complete(new ObjectDisposedException(nameof(PythonWorkerService)));
        await _supervisor.DisposeAsync().ConfigureAwait(false);
    }

    internal void Raise(WorkerLogEntry entry) => Raise(LogReceived, entry);

    internal void Raise(WorkerStartedEventArgs started) => RaiseLater(WorkerStarted, started);

    internal void Raise(WorkerExitedEventArgs exited) => RaiseLater(WorkerExited, exited);

    internal void Raise(WorkerStartException problem) => RaiseLater(WorkerStartFailed, problem);

    private void RaiseLater<T>(EventHandler<T>? handlers, T one) =>
        ThreadPool.UnsafeQueueUserWorkItem(_ => Raise(handlers, one), null);

    private void Raise<T>(EventHandler<T>? handlers, T one)
    {
        try
        {
            handlers?.Invoke(this, one);
        }
        catch (Exception)
        {
            // A handler must not stop the reader of a pipe, nor end the host.
        }
    }

    /// <summary>Asks a new worker for what its predecessor was asked for. Does not throw: a dead one is noticed elsewhere.</summary>
    internal async Task ResubscribeAsync(WorkerConnection connection)
    {
        if (Events.Wanted is not { Count: > 0 } wanted)
        {
            return;
        }

        try
        {
            await SubscribeAsync(connection, wanted, default).ConfigureAwait(false);
        }
        catch (WorkerException)
        {
            // The attempt finds the worker dead, or it has no events.
        }
    }

    private static void Check(PythonWorkerTypes type, string command, object request)
    {
        if (type != PythonWorkerTypes.Memory)
        {
            throw new ArgumentOutOfRangeException(nameof(type), type, "there is no such worker");
        }

        ArgumentException.ThrowIfNullOrEmpty(command);
        ArgumentNullException.ThrowIfNull(request);
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
    private async Task<TResponse> ExecuteAsync<TRequest, TResponse>(
        string command, TRequest request, TimeSpan time, IProgress<ProgressData>? progress, CancellationToken cancellationToken)
        where TRequest : class, IWireRecord<TRequest>
        where TResponse : class, IWireRecord<TResponse>
    {
        var endless = time == Timeout.InfiniteTimeSpan;
        using var timeout = endless ? null : new CancellationTokenSource(time, _options.TimeProvider);
        var limit = endless ? default : new CallLimit(time, timeout!.Token, _options.TimeProvider.GetUtcNow() + time);
        var row = WireActions.Find(command);
        for (int deaths = 0, refusals = 0; ;)
        {
            var connection = await ConnectAsync(command, limit, cancellationToken).ConfigureAwait(false);
            var call = connection.NewCall<TRequest, TResponse>(command, request, row, progress);
            try
            {
                return await connection.SendAsync(call, request, limit, cancellationToken).ConfigureAwait(false); // 1
            }
            catch (WorkerExitedException) when (!call.Written && !IsDisposed)
            {
                // 2
            }
            catch (WorkerExitedException) when (!call.Changes && deaths == 0 && !IsDisposed)
            {
                deaths++; // 3, and next time 4
            }
            catch (WorkerRequestException problem) when (problem.Code == "overloaded" && refusals < MaxRefusals)
            {
                refusals++; // 5
                await Task.Delay(RetryAfter(problem), _options.TimeProvider, cancellationToken).ConfigureAwait(false);
            }
            catch (WorkerRequestException problem)
                when (problem is { Code: "shutting_down", Executed: Executed.No } && refusals < MaxRefusals && !IsDisposed)
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

    private bool IsDisposed => _supervisor.Snapshot.State == WorkerState.Disposed;

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

    private async Task SubscribeAsync(CancellationToken cancellationToken)
    {
        await _subscribing.WaitAsync(cancellationToken).ConfigureAwait(false);
        try
        {
            var connection = await _supervisor.ConnectAsync(cancellationToken).ConfigureAwait(false);
            await SubscribeAsync(connection, Events.Wanted, cancellationToken).ConfigureAwait(false);
        }
        catch (WorkerExitedException)
        {
            // Its successor is asked before it is announced.
        }
        finally
        {
            _subscribing.Release();
        }
    }

    private static Task SubscribeAsync(
        WorkerConnection connection, IReadOnlyList<EventName> wanted, CancellationToken cancellationToken)
    {
        var request = new SubscribeParams { Events = [.. wanted] };
        return connection.SendAsync(connection.NewCall(WireActions.WorkerSubscribe, request), request, default, cancellationToken);
    }
}

using MemoryWorker.Client.Transport;

namespace MemoryWorker.Client;

/// <summary>
/// Keeps one worker running. All of its state is guarded by one lock: the connection that answers, the attempt to
/// get one, and since when the breaker is open.
/// </summary>
internal sealed class WorkerSupervisor : IWorkerObserver, IAsyncDisposable
{
    private readonly PythonWorkerOptions _options;
    private readonly IWorkerSink _sink;
    private readonly RestartPolicy _policy;
    private readonly RequestIds _ids = new();
    private readonly CancellationTokenSource _stopping = new();
    private readonly object _gate = new();

    private WorkerConnection? _current;
    private Task<WorkerConnection>? _attempt;
    private long? _brokenSince;
    private WorkerStartException? _lastProblem;
    private Task? _disposal;
    private long _starts;
    private long _exits;
    private long _junk;

    public WorkerSupervisor(PythonWorkerOptions options, IWorkerSink sink)
    {
        _options = options;
        _sink = sink;
        _policy = new RestartPolicy(options.Restart, options.TimeProvider);
    }

    public bool IsDisposed
    {
        get
        {
            lock (_gate)
            {
                return _disposal is not null;
            }
        }
    }

    /// <summary>The worker that answers; null where none does, and once disposed.</summary>
    public WorkerConnection? Current
    {
        get
        {
            lock (_gate)
            {
                return _disposal is null ? _current : null;
            }
        }
    }

    public WorkerSnapshot Snapshot
    {
        get
        {
            lock (_gate)
            {
                var state = _disposal is not null ? WorkerState.Disposed
                    : _current is not null ? WorkerState.Running
                    : _attempt is not null ? (_starts == 0 ? WorkerState.Starting : WorkerState.Restarting)
                    : _brokenSince is not null ? WorkerState.BreakerOpen
                    : WorkerState.NotStarted;
                return new WorkerSnapshot
                {
                    State = state,
                    ProcessId = _current?.ProcessId,
                    WorkerVersion = _current?.Hello.WorkerVersion,
                    Starts = _starts,
                    Exits = _exits,
                    InFlight = _current?.InFlight ?? 0,
                    JunkLines = Interlocked.Read(ref _junk),
                };
            }
        }
    }

    /// <summary>The worker that answers; starts one, or joins the attempt under way, where none does.</summary>
    /// <exception cref="WorkerStartException">The attempt failed, or the breaker is open.</exception>
    /// <exception cref="ObjectDisposedException">The service was disposed.</exception>
    public ValueTask<WorkerConnection> ConnectAsync(CancellationToken cancellationToken)
    {
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposal is not null, typeof(PythonWorkerService));
            if (_current is { } current)
            {
                return new(current);
            }

            if (_attempt is null)
            {
                if (_brokenSince is { } since && Left(since) is var left && left > TimeSpan.Zero)
                {
                    throw BreakerOpen(_options.TimeProvider.GetUtcNow() + left);
                }

                Begin(TimeSpan.Zero);
            }

            return new(_attempt!.WaitAsync(cancellationToken));
        }
    }

    public void OnLog(WorkerLogEntry entry) => _sink.OnLog(entry);

    public void OnJunk(int processId, string excerpt)
    {
        Interlocked.Increment(ref _junk);
        _sink.OnLog(new WorkerLogEntry
        {
            Level = WorkerLogLevel.Warning,
            Message = $"not a frame on stdout: {excerpt}",
            Line = excerpt,
            ProcessId = processId,
        });
    }

    public void OnEvent(WorkerEvent one) => _sink.OnEvent(one);

    public void OnExited(WorkerConnection connection, WorkerExit exit)
    {
        TimeSpan? delay;
        lock (_gate)
        {
            if (_current != connection)
            {
                return; // It never answered: its start fails, and the attempt says so.
            }

            _current = null;
            if (_disposal is not null)
            {
                return;
            }

            _exits++;
            delay = AfterFailure();
        }

        _sink.OnExited(new WorkerExitedEventArgs(exit, delay));
    }

    /// <summary>Completes when the worker has ended, whoever asked first.</summary>
    public ValueTask DisposeAsync()
    {
        lock (_gate)
        {
            if (_disposal is null)
            {
                var (current, attempt) = (_current, _attempt);
                _disposal = Task.Run(() => EndAsync(current, attempt));
            }

            return new(_disposal);
        }
    }

    private async Task EndAsync(WorkerConnection? current, Task? attempt)
    {
        await _stopping.CancelAsync().ConfigureAwait(false);
        if (attempt is not null)
        {
            await attempt.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }

        if (current is not null)
        {
            await current.ShutdownAsync().ConfigureAwait(false);
        }
    }

    private TimeSpan Left(long brokenSince) =>
        _options.Restart.BreakDuration - _options.TimeProvider.GetElapsedTime(brokenSince);

    /// <summary>Under the lock: what follows a failure.</summary>
    private TimeSpan? AfterFailure()
    {
        _attempt = null;
        var delay = _policy.OnFailure();
        if (delay is { } wait)
        {
            Begin(wait);
        }
        else
        {
            _brokenSince = _options.TimeProvider.GetTimestamp();
        }

        return delay;
    }

    /// <summary>Under the lock: starts an attempt. Its task fails with WorkerStartException only, or when disposed.</summary>
    private void Begin(TimeSpan delay)
    {
        _brokenSince = null;
        _attempt = Task.Run(() => AttemptAsync(delay));
        _ = _attempt.ContinueWith(
            static failed => _ = failed.Exception, // Seen, although perhaps no caller waits for it.
            CancellationToken.None,
            TaskContinuationOptions.OnlyOnFaulted | TaskContinuationOptions.ExecuteSynchronously,
            TaskScheduler.Default);
    }

    private async Task<WorkerConnection> AttemptAsync(TimeSpan delay)
    {
        try
        {
            if (delay > TimeSpan.Zero)
            {
                await Task.Delay(delay, _options.TimeProvider, _stopping.Token).ConfigureAwait(false);
            }

            _stopping.Token.ThrowIfCancellationRequested();
            var connection = await WorkerConnection.StartAsync(await PrepareAsync().ConfigureAwait(false), _ids, this, _stopping.Token).ConfigureAwait(false);
            await _sink.OnConnectedAsync(connection, _stopping.Token).ConfigureAwait(false);
            await AnnounceAsync(connection).ConfigureAwait(false);
            return connection;
        }
        catch (OperationCanceledException)
        {
            throw new ObjectDisposedException(nameof(PythonWorkerService));
        }
        catch (Exception unexpected)
        {
            // Anything else than a WorkerStartException is a bug, which must not stop the attempts that follow.
            var problem = unexpected as WorkerStartException
                ?? new WorkerStartException("the worker did not start", new WorkerFailure { ForHost = unexpected.Message }, unexpected);
            lock (_gate)
            {
                _lastProblem = problem;
                if (_disposal is null)
                {
                    AfterFailure();
                }
            }

            _sink.OnStartFailed(problem);
            throw problem;
        }
    }

    /// <summary>The options with the environment that was found or made, where they ask for one. Its steps are logged.</summary>
    private async Task<PythonWorkerOptions> PrepareAsync()
    {
        if (_options.Python is not { } wanted)
        {
            return _options;
        }

        var steps = new EnvironmentSteps(_sink);
        var python = await PythonEnvironment.PrepareAsync(wanted, steps, _stopping.Token).ConfigureAwait(false);
        return python.Apply(_options);
    }

    private async Task AnnounceAsync(WorkerConnection connection)
    {
        bool announced, restarted;
        lock (_gate)
        {
            announced = !connection.IsDead && _disposal is null;
            restarted = _starts > 0;
            if (announced)
            {
                _starts++;
                _current = connection;
                _attempt = null;
                _lastProblem = null;
                _policy.OnStarted();
            }
        }

        if (announced)
        {
            _sink.OnStarted(new WorkerStartedEventArgs(connection.ProcessId, connection.Hello.WorkerVersion, restarted));
            return;
        }

        await connection.ShutdownAsync().ConfigureAwait(false);
        _stopping.Token.ThrowIfCancellationRequested();
        var exit = await connection.Ended.ConfigureAwait(false);
        throw new WorkerStartException(
            $"{exit.Reason} right after it had started",
            new WorkerFailure { ProcessId = exit.ProcessId, ExitCode = exit.ExitCode, StderrTail = exit.StderrTail });
    }

    private WorkerStartException BreakerOpen(DateTimeOffset until)
    {
        var last = _lastProblem;
        var failure = new WorkerFailure
        {
            ProcessId = last?.ProcessId,
            ExitCode = last?.ExitCode,
            StderrTail = last?.StderrTail ?? [],
            ForHost = last?.ForHost,
        };
        return new WorkerStartException(
            $"the worker failed too often ({_options.Restart.MaxRestarts} restarts are allowed in "
                + $"{_options.Restart.Window.TotalSeconds:0.###} s); the next try is at {until:O}"
                + (last is null ? string.Empty : $"; the last time: {last.Summary}"),
            failure,
            last)
        {
            RetryAt = until,
        };
    }
}

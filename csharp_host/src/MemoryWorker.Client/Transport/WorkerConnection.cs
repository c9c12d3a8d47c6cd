using MemoryWorker.Client.Processes;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client.Transport;

/// <summary>One worker process from its start to its end, and the calls that it has not answered yet.</summary>
internal sealed partial class WorkerConnection
{
    private static readonly TimeSpan KillTimeout = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan ExitTimeout = TimeSpan.FromSeconds(1);

    private readonly PythonWorkerOptions _options;
    private readonly RequestIds _ids;
    private readonly IWorkerObserver _observer;
    private readonly WorkerProcess _process;
    private readonly StderrLog _stderr;
    private readonly AllocationLedger _allocations;
    private readonly ReplyRouter _router;
    private readonly RequestWriter _writer;
    private readonly CancellationTokenSource _stop = new();
    private readonly TaskCompletionSource _broken = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource<WorkerExit> _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);

    private SemaphoreSlim _slots = new(1);
    private volatile WorkerExit? _exit;
    private string? _killedBecause;
    private int _probing;

    private WorkerConnection(PythonWorkerOptions options, RequestIds ids, IWorkerObserver observer)
    {
        _options = options;
        _ids = ids;
        _observer = observer;
        _process = WorkerProcess.Start(options);
        _allocations = new AllocationLedger(options.TimeProvider);
        _allocations.Orphaned += id => _ = GiveBackAsync(id);
        _allocations.Unlisted += held => _ = ReconcileAsync(held);
        _router = new ReplyRouter(_process.Id, _allocations, observer);
        _router.Settled += OnSettled;
        _stderr = new StderrLog(_process.Id, options.StderrTailLines, observer);
        _writer = new RequestWriter(_process.Stdin, () => _broken.TrySetResult(), _stop.Token);
        _ = RunAsync();
    }

    public int ProcessId => _process.Id;

    /// <summary>What the worker said about itself.</summary>
    public HelloResult Hello { get; private set; } = null!;

    /// <summary>True from the moment on that its end is known.</summary>
    public bool IsDead => _exit is not null;

    public int InFlight => _router.Count;

    /// <summary>Completes when the process has ended and every call has been failed.</summary>
    public Task<WorkerExit> Ended => _ended.Task;

    /// <summary>Starts a process and waits for its answer to <c>worker.hello</c>.</summary>
    /// <exception cref="WorkerStartException">It could not be started, ended, said something else, or took too long.</exception>
    /// <exception cref="OperationCanceledException">The token was cancelled; the process is gone.</exception>
    public static async Task<WorkerConnection> StartAsync(
        PythonWorkerOptions options, RequestIds ids, IWorkerObserver observer, CancellationToken cancellationToken)
    {
        var connection = new WorkerConnection(options, ids, observer);
        try
        {
            await connection.GreetAsync(cancellationToken).ConfigureAwait(false);
            return connection;
        }
        catch (Exception problem) when (problem is WorkerException or OperationCanceledException)
        {
            connection.Kill("it did not start");
            var exit = await connection.EndAsync(KillTimeout).ConfigureAwait(false);
            cancellationToken.ThrowIfCancellationRequested();
            throw NotStarted(problem, connection, exit);
        }
    }

    private async Task GreetAsync(CancellationToken cancellationToken)
    {
        var hello = new HelloParams { ProtocolMin = WireContract.ProtocolVersion, ProtocolMax = WireContract.ProtocolVersion, HostPid = Environment.ProcessId };
        var call = NewCall(WireActions.WorkerHello, hello);
        Hello = await SendAsync(call, _options.StartTimeout, cancellationToken).ConfigureAwait(false);
        _slots = new SemaphoreSlim((int)Math.Clamp(Hello.Limits.MaxInflight, 1, int.MaxValue));
    }

    private static WorkerStartException NotStarted(Exception problem, WorkerConnection connection, WorkerExit? exit)
    {
        var stderr = connection._stderr.Tail;
        var failure = new WorkerFailure
        {
            ProcessId = connection.ProcessId,
            ExitCode = problem is WorkerExitedException ? exit?.ExitCode : null,
            StderrTail = stderr,
            ForHost = Interpreter.Describe(connection._options, stderr),
        };
        var why = problem switch
        {
            WorkerExitedException => $"it ended with {ExitCodes.Describe(exit?.ExitCode)} before it answered",
            WorkerTimeoutException late => $"it did not answer within {late.Timeout.TotalSeconds:0.###} s",
            _ => problem.Message,
        };
        return new WorkerStartException(
            $"the worker (process {connection.ProcessId}) did not start: {why}", failure, problem);
    }

    /// <summary>Ends the worker: asks it to, closes its input, waits, kills it. Bounded at every step; does not throw.</summary>
    public async Task ShutdownAsync()
    {
        try
        {
            var call = NewCall(WireActions.WorkerShutdown, new ShutdownParams());
            await SendAsync(call, _options.ShutdownTimeout, default).ConfigureAwait(false);
        }
        catch (WorkerException)
        {
            // It is dead, hung or does not know the action: the steps below do not need its help.
        }

        // On Windows, closing flushes, and a worker that does not read blocks that.
        await Task.WhenAny(Task.Run(CloseStdin), Task.Delay(ExitTimeout, _options.TimeProvider)).ConfigureAwait(false);
        if (await EndAsync(_options.ShutdownTimeout).ConfigureAwait(false) is null)
        {
            Kill("it did not end at shutdown");
            await EndAsync(KillTimeout).ConfigureAwait(false);
        }
    }

    /// <summary>Kills the process and what it started, and says why in what follows.</summary>
    public void Kill(string reason)
    {
        Interlocked.CompareExchange(ref _killedBecause, reason, null);
        _process.Kill();
        _broken.TrySetResult();
    }

    private async Task<WorkerExit?> EndAsync(TimeSpan time)
    {
        try
        {
            return await Ended.WaitAsync(time, _options.TimeProvider).ConfigureAwait(false);
        }
        catch (TimeoutException)
        {
            return null;
        }
    }

    private async Task RunAsync()
    {
        var name = $"memory worker {_process.Id}";
        var stdout = Pump.RunAsync(_process.Stdout, new LineFramer(_router, _options.MaxReplyBytes), $"{name} stdout", _stop.Token);
        var stderr = Pump.RunAsync(_process.Stderr, new LineFramer(_stderr, StderrLog.MaxLineBytes), $"{name} stderr", _stop.Token);
        await Task.WhenAny(stdout, _process.Exited, _broken.Task).ConfigureAwait(false);
        if (!await _process.WaitAsync(ExitTimeout, _options.TimeProvider).ConfigureAwait(false))
        {
            // Deaf or mute, but alive.
            Kill("it closed a pipe but did not end");
            await _process.WaitAsync(KillTimeout, _options.TimeProvider).ConfigureAwait(false);
        }

        // What it wrote before its end is in the pipes; whoever inherited them may keep them open for ever.
        var drained = Task.WhenAll(stdout, stderr);
        await Task.WhenAny(drained, Task.Delay(_options.DrainTimeout, _options.TimeProvider, _stop.Token)).ConfigureAwait(false);
        await _stop.CancelAsync().ConfigureAwait(false);
        var exit = new WorkerExit(_process.Id, _process.ExitCode, Reason(), _stderr.Tail, _allocations.Live());
        _exit = exit;
        _observer.OnExited(this, exit); // Before the calls fail: whoever calls again finds the successor.
        _router.FailAll(call => Exited(exit, call.RequestId, !call.TryWithdraw(), call.Changes));
        CloseStdin();
        _process.Dispose();
        _ended.SetResult(exit);
    }

    private string Reason()
    {
        var code = _process.ExitCode;
        var how = code is null ? "does not end" : $"ended with {ExitCodes.Describe(code)}";
        return _killedBecause is null
            ? $"the worker (process {ProcessId}) {how}"
            : $"the worker (process {ProcessId}) was killed because {_killedBecause}";
    }

    private void CloseStdin()
    {
        try
        {
            _process.Stdin.Dispose();
        }
        catch (Exception problem) when (problem is IOException or ObjectDisposedException)
        {
            // It was broken or closed already.
        }
    }
}

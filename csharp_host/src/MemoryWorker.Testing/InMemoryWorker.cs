using System.Globalization;
using System.Runtime.CompilerServices;
using System.Text.Json;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>
/// A worker without a process, for unit tests: it keeps a real ledger of budgets, allocations, leases, transfers and
/// models, refuses what the worker would refuse with the same codes and details, and fails when it is told to. Nothing
/// of it sleeps; leases run by the clock that it is given. Any number of calls at a time, from any thread.
/// </summary>
/// <remarks>
/// Requests and answers pass through the wire's own JSON, so what a test sees is what a host would see. Consumers
/// are asked before models go, whatever these cost to load, and the model that was used longest ago goes first, whatever
/// strategy is named. Free memory is never in pieces. Its stores take nothing of a device's budget and give nothing up for others;
/// of a cache what is the cheapest to make again by the byte goes first, however often it was used. Stores of kinds <c>documents</c> and
/// <c>kv</c>, whose entries the worker's own indexes find, are refused as <c>unsupported</c>, as is any other action that it has no
/// ledger for, until <see cref="Answer(WireAction, Func{JsonElement, JsonElement})"/> says what they answer.
/// </remarks>
public sealed class InMemoryWorker : IPythonWorkerService
{
    private const int FirstProcessId = 1_000_001;

    private readonly object _gate = new();
    private readonly TimeProvider _clock;
    private readonly IReadOnlyList<FakeDevice> _devices;
    private readonly IReadOnlyList<FakeModel> _models;
    private readonly Dictionary<string, Queue<Fault>> _faults = [];
    private readonly Dictionary<string, Func<JsonElement, JsonElement>> _answers = [];
    private readonly Dictionary<string, TaskCompletionSource> _held = [];
    private readonly List<FakeRequest> _requests = [];
    private readonly EventReaders _readers = new();
    private readonly Dictionary<(MemoryScope, StoreKind, string), HeldStore> _disk = [];
    private readonly bool _hasStoreFolder;
    private InMemoryLedger _ledger;
    private int _deaths;
    private int _inFlight;
    private bool _disposed;

    /// <summary>Makes a worker; without devices it has one named <c>cpu</c> with a budget of 1 GiB.</summary>
    /// <param name="devices">The first is the default device.</param>
    /// <param name="models">The models of its configuration; none is loaded.</param>
    /// <param name="clock">Runs leases and ages.</param>
    public InMemoryWorker(
        IReadOnlyList<FakeDevice>? devices = null, IReadOnlyList<FakeModel>? models = null, TimeProvider? clock = null)
    {
        _clock = clock ?? TimeProvider.System;
        _devices = devices is { Count: > 0 } ? devices : [new FakeDevice("cpu", 1L << 30) { Kind = DeviceKind.Cpu }];
        _models = models ?? [];
        _ledger = NewLedger();
        Memory = new ServiceMemory(this);
        Stores = new MemoryStores(this);
    }

    /// <inheritdoc/>
    public event EventHandler<WorkerExitedEventArgs>? WorkerExited;

    /// <summary>The memory service on this worker: what is handed to the code under test.</summary>
    public IServiceMemory Memory { get; }

    /// <summary>The stores of this worker.</summary>
    public IMemoryStores Stores { get; }

    /// <summary>
    /// It is as a worker that was started with <see cref="WorkerOptions.StoreFolder"/>: stores may persist, and are there again after
    /// <see cref="Kill"/>. False by default.
    /// </summary>
    public bool HasStoreFolder
    {
        get => _hasStoreFolder;
        init
        {
            _hasStoreFolder = value;
            _ledger = NewLedger();
        }
    }

    /// <summary>Every call so far, oldest first.</summary>
    public IReadOnlyList<FakeRequest> Requests
    {
        get
        {
            lock (_gate)
            {
                return [.. _requests];
            }
        }
    }

    /// <inheritdoc/>
    public WorkerSnapshot Snapshot
    {
        get
        {
            lock (_gate)
            {
                var state = _disposed ? WorkerState.Disposed : WorkerState.Running;
                return new WorkerSnapshot
                {
                    State = state,
                    ProcessId = ProcessId,
                    WorkerVersion = "in-memory",
                    Starts = _deaths + 1,
                    Exits = _deaths,
                    InFlight = _inFlight,
                    JunkLines = 0,
                };
            }
        }
    }

    private int ProcessId => FirstProcessId + _deaths;

    /// <summary>That of a process that has just begun: its ids are others than any before it had.</summary>
    private InMemoryLedger NewLedger() =>
        new(
            _devices,
            _models,
            _clock,
            _readers,
            ProcessId,
            new Ids((_deaths + 1).ToString("x8", CultureInfo.InvariantCulture)),
            _hasStoreFolder ? _disk : null);

    /// <summary>Has the next calls of an action end with an exception. The ledger stays as it is.</summary>
    /// <param name="action">A row of <see cref="WireActions"/>, or any other.</param>
    /// <param name="make">Makes what is thrown, anew for each call.</param>
    /// <param name="times">For how many calls; <see cref="int.MaxValue"/> for all.</param>
    public void Fail(WireAction action, Func<Exception> make, int times = 1)
    {
        ArgumentNullException.ThrowIfNull(action);
        ArgumentNullException.ThrowIfNull(make);
        Add(action, (_, _) => make(), times);
    }

    private void Add(WireAction action, Func<InMemoryLedger, JsonElement, Exception> make, int times)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(times);
        lock (_gate)
        {
            if (!_faults.TryGetValue(action.Name, out var waiting))
            {
                _faults[action.Name] = waiting = [];
            }

            waiting.Enqueue(new Fault(make, times));
        }
    }

    /// <summary>
    /// Has the next calls of an action be refused with a code of the protocol: with the details that the worker gives with it,
    /// taken from the request and the ledger, and whether it may be repeated.
    /// </summary>
    /// <param name="action"><inheritdoc cref="Fail(WireAction, Func{Exception}, int)" path="/param[@name='action']"/></param>
    /// <param name="code">The code.</param>
    /// <param name="reason">The worker's message.</param>
    /// <param name="times"><inheritdoc cref="Fail(WireAction, Func{Exception}, int)" path="/param[@name='times']"/></param>
    public void Fail(WireAction action, ErrorCode code, string reason = "told to by a test", int times = 1)
    {
        ArgumentNullException.ThrowIfNull(action);
        Add(action, (ledger, data) => ledger.Refusal(code, action.Name, reason, data), times);
    }

    /// <summary>Says what an action answers from now on: one that has no ledger here, a plugin's, or any other.</summary>
    /// <param name="action"><inheritdoc cref="Fail(WireAction, Func{Exception}, int)" path="/param[@name='action']"/></param>
    /// <param name="answer">Gets the request's data, returns the answer's.</param>
    public void Answer(WireAction action, Func<JsonElement, JsonElement> answer)
    {
        ArgumentNullException.ThrowIfNull(action);
        ArgumentNullException.ThrowIfNull(answer);
        lock (_gate)
        {
            _answers[action.Name] = answer;
        }
    }

    /// <summary>Has calls of an action wait, as those of a worker that is busy, until what is returned is disposed of.</summary>
    public IDisposable Hold(WireAction action)
    {
        ArgumentNullException.ThrowIfNull(action);
        var gate = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (_gate)
        {
            if (!_held.TryAdd(action.Name, gate))
            {
                throw new InvalidOperationException($"{action.Name} is held already");
            }
        }

        return new Release(() =>
        {
            lock (_gate)
            {
                _held.Remove(action.Name);
            }

            gate.TrySetResult();
        });
    }

    /// <summary>Gives an event to every reader that asked for it; sequence and process are filled in.</summary>
    public void Raise(WorkerEvent one)
    {
        ArgumentNullException.ThrowIfNull(one);
        _readers.Publish(one, ProcessId);
    }

    /// <summary>
    /// Ends the worker as <c>kill -9</c> would: held calls end with <see cref="WorkerExitedException"/>, the allocations go,
    /// <see cref="WorkerExited"/> lists them, and an empty successor answers from now on.
    /// </summary>
    public void Kill()
    {
        WorkerExitedEventArgs exited;
        TaskCompletionSource[] held;
        lock (_gate)
        {
            var lost = _ledger.Lost();
            exited = new WorkerExitedEventArgs(ProcessId, 137, "killed by a test", [], lost, TimeSpan.Zero);
            held = [.. _held.Values, .. _ledger.Waiting()];
            _held.Clear();
            _deaths++;
            _ledger = NewLedger();
        }

        foreach (var gate in held)
        {
            gate.TrySetException(new WorkerExitedException(exited.Reason, new WorkerFailure
            {
                Executed = Executed.Unknown,
                ProcessId = exited.ProcessId,
                ExitCode = exited.ExitCode,
            }));
        }

        WorkerExited?.Invoke(this, exited);
    }

    /// <inheritdoc/>
    public Task StartAsync(CancellationToken cancellationToken = default)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        cancellationToken.ThrowIfCancellationRequested();
        return Task.CompletedTask;
    }

    /// <inheritdoc/>
    public async Task<TResult> ExecuteAsync<TParams, TResult>(
        WireAction<TParams, TResult> action,
        TParams request,
        WorkerCallOptions? options = null,
        CancellationToken cancellationToken = default)
        where TParams : class, IWireRecord<TParams>
        where TResult : class, IWireRecord<TResult>
    {
        ArgumentNullException.ThrowIfNull(action);
        ArgumentNullException.ThrowIfNull(request);
        cancellationToken.ThrowIfCancellationRequested();
        TaskCompletionSource? gate;
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            _requests.Add(new FakeRequest(action.Name, request));
            _held.TryGetValue(action.Name, out gate);
            _inFlight++;
        }

        try
        {
            await (gate?.Task ?? Task.CompletedTask).WaitAsync(cancellationToken).ConfigureAwait(false);
            var data = await RunAsync(action.Name, WireText.ToElement(request), options?.Progress, cancellationToken)
                .ConfigureAwait(false);
            return WireText.FromElement<TResult>(data);
        }
        finally
        {
            lock (_gate)
            {
                _inFlight--;
            }
        }
    }

    /// <inheritdoc/>
    public IAsyncEnumerable<WorkerEvent> ReadEventsAsync(
        IReadOnlyCollection<EventName> events, CancellationToken cancellationToken = default) =>
        ReadEventsAsync(events, TimeSpan.FromMilliseconds(WireContract.FiguresEveryMs), cancellationToken);

    /// <inheritdoc/>
    public async IAsyncEnumerable<WorkerEvent> ReadEventsAsync(
        IReadOnlyCollection<EventName> events,
        TimeSpan figuresEvery,
        [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(events);
        ObjectDisposedException.ThrowIf(_disposed, this);
        Func<Action<WorkerEvent>, IDisposable>? tick = events.Contains(EventName.MemoryFigures)
            ? tell => _clock.CreateTimer(_ => tell(Figures()), null, TimeSpan.Zero, figuresEvery)
            : null;
        await foreach (var one in _readers.ReadAsync(events, tick, cancellationToken).ConfigureAwait(false))
        {
            yield return one;
        }
    }

    private FiguresEvent Figures()
    {
        lock (_gate)
        {
            return new(1, ProcessId, _ledger.Figures());
        }
    }

    /// <inheritdoc/>
    public ValueTask DisposeAsync()
    {
        lock (_gate)
        {
            _disposed = true;
        }

        _readers.Complete();
        return ValueTask.CompletedTask;
    }

    private async Task<JsonElement> RunAsync(
        string action, JsonElement data, IProgress<ProgressData>? progress, CancellationToken cancellationToken)
    {
        Func<JsonElement, JsonElement>? own;
        InMemoryLedger ledger;
        lock (_gate)
        {
            if (_faults.TryGetValue(action, out var waiting) && waiting.TryPeek(out var fault))
            {
                if (--fault.Left == 0)
                {
                    waiting.Dequeue();
                }

                throw fault.Make(_ledger, data);
            }

            ledger = _ledger;
            _answers.TryGetValue(action, out own);
        }

        if (own is not null)
        {
            return own(data);
        }

        InMemoryLedger.Check(action, data);

        var given = await ledger.AskAsync(action, data, cancellationToken).ConfigureAwait(false);
        lock (_gate)
        {
            return _ledger.Answer(action, data, progress, given);
        }
    }
}

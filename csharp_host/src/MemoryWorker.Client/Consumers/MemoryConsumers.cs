using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>
/// Keeps consumers known to the worker: registers them, renews that, has them release what the worker asks for, answers, and
/// registers them anew with the worker that replaces one that died. A consumer that throws or hangs holds up no other.
/// </summary>
public sealed class MemoryConsumers : IAsyncDisposable
{
    private const int RenewalsPerLease = 3;

    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(5);

    private readonly IServiceMemory _memory;
    private readonly IPythonWorkerService _worker;
    private readonly TimeSpan _lease;
    private readonly TimeProvider _clock;
    private readonly Dictionary<string, RegisteredConsumer> _consumers;
    private readonly CancellationTokenSource _stopping = new();

    private Task? _running;

    /// <summary>Prepares it; nothing is registered before <see cref="Start"/>.</summary>
    /// <param name="memory">Who is told.</param>
    /// <param name="worker">Who says that a worker has died: the same that <paramref name="memory"/> asks.</param>
    /// <param name="consumers">Each with an id of its own.</param>
    /// <param name="lease">How long the worker remembers one that is not renewed; null for 30 s.</param>
    /// <param name="clock">Runs renewals; null for the system's.</param>
    /// <exception cref="ArgumentException">Two have one id, or the lease is too short.</exception>
    public MemoryConsumers(
        IServiceMemory memory,
        IPythonWorkerService worker,
        IEnumerable<IMemoryConsumer> consumers,
        TimeSpan? lease = null,
        TimeProvider? clock = null)
    {
        ArgumentNullException.ThrowIfNull(memory);
        ArgumentNullException.ThrowIfNull(worker);
        ArgumentNullException.ThrowIfNull(consumers);
        _lease = lease ?? TimeSpan.FromSeconds(30);
        ArgumentOutOfRangeException.ThrowIfLessThan(_lease, TimeSpan.FromMilliseconds(RenewalsPerLease), nameof(lease));
        _memory = memory;
        _worker = worker;
        _clock = clock ?? TimeProvider.System;
        _consumers = new(StringComparer.Ordinal);
        foreach (var one in consumers)
        {
            if (!_consumers.TryAdd(one.Id, new RegisteredConsumer(one)))
            {
                throw new ArgumentException(
                    $"two consumers have the id '{one.Id}': the worker tells consumers apart by it, so give each its own", nameof(consumers));
            }
        }
    }

    /// <summary>
    /// Raised when a consumer threw, or, with a <see cref="WorkerException"/>, the worker refused one or could not be had; it is
    /// tried again with the next renewal. The handler is the consumer's id.
    /// </summary>
    public event EventHandler<WorkerHandlerFailedEventArgs>? Failed;

    /// <summary>Registers the consumers and listens for what they are asked; once. Starts the worker if none runs.</summary>
    public void Start()
    {
        if (_consumers.Count > 0 && _running is null)
        {
            _worker.WorkerExited += OnWorkerExited;
            _running = Task.WhenAll(_consumers.Values.Select(one => Task.Run(() => RenewAsync(one))).Append(Task.Run(ListenAsync)));
        }
    }

    /// <summary>Tells the worker now what the consumers hold, instead of within a third of the lease.</summary>
    public void Renew()
    {
        foreach (var one in _consumers.Values)
        {
            one.RenewNow.Writer.TryWrite(true); // One that waits already says as much.
        }
    }

    /// <summary>Has the worker forget the consumers, as long as it answers at once.</summary>
    public async ValueTask DisposeAsync()
    {
        if (_stopping.IsCancellationRequested)
        {
            return;
        }

        _worker.WorkerExited -= OnWorkerExited;
        await _stopping.CancelAsync().ConfigureAwait(false);
        if (_running is null)
        {
            return;
        }

        await _running.WaitAsync(Patience, _clock).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing); // One may hang.
        if (_worker.Snapshot.State != WorkerState.Running)
        {
            return;
        }

        using var patience = new CancellationTokenSource(Patience, _clock);
        foreach (var id in _consumers.Keys)
        {
            await TryAsync(id, () => _memory.UnregisterConsumerAsync(id, patience.Token)).ConfigureAwait(false);
        }
    }

    private void OnWorkerExited(object? sender, WorkerExitedEventArgs exited) => Renew();

    private async Task ListenAsync()
    {
        EventName[] events = [EventName.MemoryReleaseRequested, EventName.MemoryConsumerLimitChanged];
        while (!_stopping.IsCancellationRequested)
        {
            await TryAsync("this host's consumers", ReadAsync).ConfigureAwait(false);
            // The breaker is open, or the worker is older and has no such events.
            await Task.Delay(_lease / RenewalsPerLease, _clock, _stopping.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }

        async Task ReadAsync()
        {
            await foreach (var one in _memory.GetMemoryEventsAsync(events, _stopping.Token).ConfigureAwait(false))
            {
                switch (one)
                {
                    case ReleaseRequestedEvent { Data: var asked } when _consumers.TryGetValue(asked.ConsumerId, out var consumer):
                        _ = ReleaseAsync(consumer, asked);
                        break;
                    case ConsumerLimitChangedEvent { Data: var changed } when _consumers.TryGetValue(changed.ConsumerId, out var consumer):
                        _ = TryAsync(changed.ConsumerId, () => consumer.LimitAsync(changed.LimitBytes, _stopping.Token));
                        break;
                }
            }
        }
    }

    private async Task RenewAsync(RegisteredConsumer consumer)
    {
        while (!_stopping.IsCancellationRequested)
        {
            await RegisterAsync(consumer).ConfigureAwait(false);
            using var due = new CancellationTokenSource(_lease / RenewalsPerLease, _clock);
            using var either = CancellationTokenSource.CreateLinkedTokenSource(due.Token, _stopping.Token);
            Task asked = consumer.RenewNow.Reader.ReadAsync(either.Token).AsTask();
            await asked.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    private Task RegisterAsync(RegisteredConsumer consumer) => TryAsync(consumer.Id, async () =>
    {
        if (await consumer.DescribeAsync(_lease, _stopping.Token).ConfigureAwait(false) is not { } holding)
        {
            return; // It is busy releasing, and registers afterwards.
        }

        var known = await _memory.RegisterConsumerAsync(holding, _stopping.Token).ConfigureAwait(false);
        await consumer.LimitAsync(known.LimitBytes, _stopping.Token).ConfigureAwait(false);
    });

    private async Task ReleaseAsync(RegisteredConsumer consumer, ReleaseRequestedData asked)
    {
        long released = 0;
        await TryAsync(consumer.Id, async () => released = await consumer.ReleaseAsync(asked, _stopping.Token).ConfigureAwait(false))
            .ConfigureAwait(false);
        await TryAsync(consumer.Id, () => _memory.ConfirmReleasedAsync(consumer.Id, Math.Max(0, released), _stopping.Token))
            .ConfigureAwait(false);
        await RegisterAsync(consumer).ConfigureAwait(false); // Its offers are others now.
    }

    private async Task TryAsync(string what, Func<Task> action)
    {
        try
        {
            await action().ConfigureAwait(false);
        }
        catch (Exception problem) when (_stopping.IsCancellationRequested || problem is ObjectDisposedException)
        {
            // The host ends.
        }
        catch (Exception problem)
        {
            Failed?.Invoke(this, new WorkerHandlerFailedEventArgs(what, problem));
        }
    }
}

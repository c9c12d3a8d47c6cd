using System.Runtime.CompilerServices;
using MemoryWorker.Client.Protocol;
using MemoryWorker.Client.Transport;

namespace MemoryWorker.Client;

/// <summary>The one subscription that all readers of a host share: the worker is asked for what any of them wants.</summary>
/// <param name="supervisor">Who has the worker.</param>
/// <param name="time">How long it may take to answer: it is a question of a moment, so one that takes longer hangs.</param>
internal sealed class EventSubscription(WorkerSupervisor supervisor, TimeSpan time)
{
    private readonly EventHub _hub = new();

    // One at a time, each with what is wanted by then: so the last that the worker hears is what holds.
    private readonly SemaphoreSlim _subscribing = new(1);

    private sealed record Refusal(IReadOnlyList<EventName> Names, WorkerRequestException Problem);

    public void Publish(WorkerEvent one) => _hub.Publish(one);

    public void Complete(Exception problem) => _hub.Complete(problem);

    public async IAsyncEnumerable<WorkerEvent> ReadAsync(
        IReadOnlyCollection<EventName> events,
        TimeSpan? figuresEvery,
        [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        var reader = _hub.Add(events, figuresEvery);
        try
        {
            await SubscribeAsync(reader, cancellationToken).ConfigureAwait(false);
            await foreach (var one in reader.Events.ReadAllAsync(cancellationToken).ConfigureAwait(false))
            {
                yield return one;
            }
        }
        finally
        {
            var before = _hub.Wanted;
            _hub.Remove(reader);
            if (!before.IsSameAs(_hub.Wanted))
            {
                _ = UnsubscribeAsync();
            }
        }
    }

    /// <summary>
    /// Asks a new worker for what its predecessor was asked for. Readers of what it refuses are told, and end with that; one that
    /// does not answer is killed. Does not throw: a dead one is noticed elsewhere.
    /// </summary>
    public async Task ResubscribeAsync(WorkerConnection connection, CancellationToken cancellationToken)
    {
        if (_hub.Wanted is not { Names.Count: > 0 } wanted)
        {
            return;
        }

        try
        {
            if (await AskAsync(connection, wanted, cancellationToken).ConfigureAwait(false) is { } refused)
            {
                _hub.Complete(refused.Problem, reader => reader.Names.IsSubsetOf(refused.Names));
            }
        }
        catch (WorkerRequestException problem) when (problem.ErrorCode != ErrorCode.ShuttingDown)
        {
            _hub.Complete(problem);
        }
        catch (WorkerTimeoutException problem)
        {
            connection.Kill(problem.Message);
            await connection.Ended.ConfigureAwait(false);
        }
        catch (Exception problem) when (problem is WorkerException or OperationCanceledException)
        {
            // It is dead, or about to be: its successor is asked, if there is to be one.
        }
    }

    private async Task SubscribeAsync(EventReader reader, CancellationToken cancellationToken)
    {
        await _subscribing.WaitAsync(cancellationToken).ConfigureAwait(false);
        try
        {
            var connection = await supervisor.ConnectAsync(cancellationToken).ConfigureAwait(false);
            var refused = await AskAsync(connection, _hub.Wanted, cancellationToken).ConfigureAwait(false);
            if (refused is not null && reader.Names.IsSubsetOf(refused.Names))
            {
                throw refused.Problem; // Nothing that this reader wants will ever come.
            }
        }
        catch (Exception problem)
            when (problem is WorkerExitedException or WorkerRequestException { ErrorCode: ErrorCode.ShuttingDown })
        {
            // Its successor is asked before it is announced.
        }
        finally
        {
            _subscribing.Release();
        }
    }

    /// <summary>Tells the worker that runs, if one does, what is still wanted. No reader waits for it.</summary>
    private async Task UnsubscribeAsync()
    {
        await _subscribing.WaitAsync().ConfigureAwait(false);
        try
        {
            if (supervisor.Current is { } connection)
            {
                await AskAsync(connection, _hub.Wanted, default).ConfigureAwait(false);
            }
        }
        catch (WorkerException)
        {
            // It is dead, or goes on to send what no reader takes.
        }
        finally
        {
            _subscribing.Release();
        }
    }

    /// <summary>Subscribes to what the worker has of it: one that is older does not know every event.</summary>
    /// <returns>What it does not have; null where it has all.</returns>
    private async Task<Refusal?> AskAsync(
        WorkerConnection connection, WantedEvents wanted, CancellationToken cancellationToken)
    {
        Refusal? refused = null;
        while (true)
        {
            try
            {
                var call = connection.NewCall(WireActions.WorkerSubscribe, wanted.ToWire());
                await connection.SendAsync(call, time, cancellationToken).ConfigureAwait(false);
                return refused;
            }
            catch (WorkerRequestException problem) when (Unknown(problem, wanted.Names) is { Count: > 0 } unknown)
            {
                refused = new([.. refused?.Names ?? [], .. unknown], problem);
                wanted = wanted.Without(unknown);
            }
        }
    }

    /// <summary>Which of the events a refusal names, by their places in the request.</summary>
    private static List<EventName> Unknown(WorkerRequestException problem, IReadOnlyList<EventName> wanted)
    {
        const string Place = "data.events.";
        return problem.ErrorCode == ErrorCode.InvalidRequest && problem.Details.TryGetProperty("errors", out var errors)
            ? errors.EnumerateArray()
                .Select(one => one.GetProperty("path").GetString() ?? string.Empty)
                .Where(path => path.StartsWith(Place, StringComparison.Ordinal))
                .Select(path => int.TryParse(path.AsSpan(Place.Length), out var at) ? at : -1)
                .Where(at => at >= 0 && at < wanted.Count)
                .Select(at => wanted[at])
                .ToList()
            : [];
    }
}

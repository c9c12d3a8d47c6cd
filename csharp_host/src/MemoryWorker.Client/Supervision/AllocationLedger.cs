using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>
/// What one worker holds for this host, read off its answers, so that its death can say what went with it.
/// Written by one reader; counts an allocation until its end was seen.
/// </summary>
internal sealed class AllocationLedger(TimeProvider clock)
{
    private readonly Dictionary<string, Entry> _live = new(StringComparer.Ordinal);

    private sealed record Entry(LostAllocation Allocation, bool Persistent, DateTimeOffset? Until);

    /// <summary>Called with an allocation that nobody will ever hear of: its call was given up before the answer.</summary>
    public event Action<string>? Orphaned;

    public IReadOnlyList<LostAllocation> Live()
    {
        lock (_live)
        {
            var now = clock.GetUtcNow();
            return _live.Values.Where(one => one.Until is not { } until || until > now).Select(one => one.Allocation).ToList();
        }
    }

    /// <summary>Takes note of an answer before anybody else sees it.</summary>
    public void Observe(object request, object response)
    {
        lock (_live)
        {
            switch (request, response)
            {
                case (AllocateParams asked, AllocateResult got):
                    var until = asked.LeaseMs is { } lease and < 1L << 40 ? clock.GetUtcNow().AddMilliseconds(lease) : (DateTimeOffset?)null;
                    _live[got.AllocationId] = new Entry(
                        new(got.AllocationId, got.DeviceId, got.SizeBytes, asked.Owner, asked.Purpose), asked.Persistent, until);
                    break;
                case (_, DeallocateResult got):
                    _live.Remove(got.AllocationId);
                    break;
                case (TransferParams asked, TransferResult { State: TransferState.Completed } got):
                    Move(got, asked.TransferType == TransferType.Move);
                    break;
                case (GetTransferParams, TransferResult { State: TransferState.Completed } got):
                    Move(got, moved: false);
                    break;
                case (ClearParams asked, ClearResult got) when asked.ClearType is ClearType.Allocations or ClearType.All:
                    Clear(asked, got);
                    break;
            }
        }
    }

    public void Observe(WorkerEvent one)
    {
        lock (_live)
        {
            switch (one)
            {
                case AllocationExpiredEvent { Data: var expired }:
                    _live.Remove(expired.AllocationId);
                    break;
                case DeviceLostEvent { Data: var lost }:
                    foreach (var id in lost.AllocationIds)
                    {
                        _live.Remove(id);
                    }

                    break;
            }
        }
    }

    /// <summary>Takes an answer whose caller had left: what it made is given back.</summary>
    public void Orphan(object request, object response)
    {
        var made = (request, response) switch
        {
            (_, AllocateResult got) => got.AllocationId,
            (TransferParams { TransferType: TransferType.Copy }, TransferResult { State: TransferState.Completed } got) =>
                got.DestinationAllocationId,
            _ => null,
        };
        if (made is not null)
        {
            Orphaned?.Invoke(made);
        }
    }

    private void Move(TransferResult got, bool moved)
    {
        _live.TryGetValue(got.SourceAllocationId, out var source);
        if (got.DestinationAllocationId is { } id)
        {
            _live[id] = new Entry(
                new(id, got.DestinationDeviceId, got.SizeBytes, source?.Allocation.Owner, source?.Allocation.Purpose),
                source?.Persistent ?? false,
                source?.Until);
        }

        if (moved)
        {
            _live.Remove(got.SourceAllocationId);
        }
    }

    private void Clear(ClearParams asked, ClearResult got)
    {
        var kept = got.Kept.Select(one => one.Id).ToHashSet(StringComparer.Ordinal);
        var gone = _live.Values
            .Where(one => asked.Force || !one.Persistent)
            .Select(one => one.Allocation)
            .Where(one => asked.DeviceId is null or "all" || asked.DeviceId == one.DeviceId)
            .Where(one => asked.Owner is null || asked.Owner == one.Owner)
            .Where(one => !kept.Contains(one.AllocationId))
            .ToList();
        gone.ForEach(one => _live.Remove(one.AllocationId));
    }
}

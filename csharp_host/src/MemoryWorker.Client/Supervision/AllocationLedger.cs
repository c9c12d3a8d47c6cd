using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>
/// What one worker holds for this host, read off its answers, so that its death can say what went with it.
/// Written by one reader; counts an allocation until its end was seen. It knows none of the worker's rules: what was
/// freed is what the worker names.
/// </summary>
internal sealed class AllocationLedger(TimeProvider clock)
{
    private static readonly long LongestLeaseMs = (long)TimeSpan.MaxValue.TotalMilliseconds;

    private readonly Dictionary<string, Entry> _live = new(StringComparer.Ordinal);

    private readonly record struct Entry(LostAllocation Allocation, long Since, TimeSpan? Lease);

    /// <summary>Called with an allocation that no caller will ever hear of: its call was given up before the answer.</summary>
    public event Action<string>? Orphaned;

    /// <summary>Called with what was live when the worker freed more than it lists: its own list says what is left.</summary>
    public event Action<IReadOnlyCollection<string>>? Unlisted;

    public IReadOnlyList<LostAllocation> Live()
    {
        lock (_live)
        {
            return _live.Values
                .Where(one => one.Lease is not { } lease || clock.GetElapsedTime(one.Since) < lease)
                .Select(one => one.Allocation)
                .ToList();
        }
    }

    public void Remove(IEnumerable<string> allocationIds)
    {
        lock (_live)
        {
            foreach (var id in allocationIds)
            {
                _live.Remove(id);
            }
        }
    }

    /// <summary>Takes note of an answer before its caller sees it.</summary>
    public void Observe(string action, object request, object response)
    {
        switch (Typed(action, request, response))
        {
            case (AllocateParams asked, AllocateResult got):
                Add(asked, got);
                break;
            case (RenewLeaseParams asked, RenewLeaseResult got):
                Renew(got.AllocationId, asked.LeaseMs);
                break;
            case (_, DeallocateResult got):
                Remove([got.AllocationId]);
                break;
            case (TransferParams asked, TransferResult { State: TransferState.Completed } got):
                Move(got, asked.TransferType == TransferType.Move);
                break;
            case (GetTransferParams, TransferResult { State: TransferState.Completed } got):
                Move(got, moved: false);
                break;
            case (_, ClearResult { AllocationIds: { } ids }):
                Remove(ids);
                break;
            case (_, ClearResult { AllocationsFreed: > 0 }):
                Unlisted?.Invoke(Ids());
                break;
        }
    }

    public void Observe(WorkerEvent one)
    {
        switch (one)
        {
            case AllocationExpiredEvent { Data: var expired }:
                Remove([expired.AllocationId]);
                break;
            case DeviceLostEvent { Data: var lost }:
                Remove(lost.AllocationIds);
                break;
        }
    }

    /// <summary>Takes an answer whose caller had left: what it made is given back.</summary>
    public void Orphan(string action, object request, object response)
    {
        var made = Typed(action, request, response) switch
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

    /// <summary>Returns plain JSON as what it is of: whoever asks by an action's name holds memory, too.</summary>
    private static (object Request, object Response) Typed(string action, object request, object response)
    {
        return (request, response) is not (JsonData asked, JsonData got) ? (request, response) : action switch
        {
            MemoryActions.Allocate => Read<AllocateParams, AllocateResult>(),
            MemoryActions.RenewLease => Read<RenewLeaseParams, RenewLeaseResult>(),
            MemoryActions.Deallocate => Read<DeallocateParams, DeallocateResult>(),
            MemoryActions.Transfer => Read<TransferParams, TransferResult>(),
            MemoryActions.GetTransfer => Read<GetTransferParams, TransferResult>(),
            MemoryActions.Clear => Read<ClearParams, ClearResult>(),
            _ => (request, response),
        };

        (object, object) Read<TParams, TResult>()
            where TParams : class, IWireRecord<TParams>
            where TResult : class, IWireRecord<TResult> =>
            (WireJson.Read<TParams>(asked.Value), WireJson.Read<TResult>(got.Value));
    }

    private void Add(AllocateParams asked, AllocateResult got)
    {
        lock (_live)
        {
            var made = new LostAllocation
            {
                AllocationId = got.AllocationId,
                DeviceId = got.DeviceId,
                SizeBytes = got.SizeBytes,
                Owner = asked.Owner,
                Purpose = asked.Purpose,
            };
            _live[got.AllocationId] = new(made, clock.GetTimestamp(), Lease(asked.LeaseMs));
        }
    }

    private void Renew(string allocationId, long leaseMs)
    {
        lock (_live)
        {
            if (_live.TryGetValue(allocationId, out var held))
            {
                _live[allocationId] = held with { Since = clock.GetTimestamp(), Lease = Lease(leaseMs) };
            }
        }
    }

    private static TimeSpan? Lease(long? milliseconds) =>
        milliseconds is { } given && given < LongestLeaseMs ? TimeSpan.FromMilliseconds(given) : null;

    private void Move(TransferResult got, bool moved)
    {
        lock (_live)
        {
            var known = _live.TryGetValue(got.SourceAllocationId, out var source);
            if (got.DestinationAllocationId is { } id)
            {
                var made = new LostAllocation
                {
                    AllocationId = id,
                    DeviceId = got.DestinationDeviceId,
                    SizeBytes = got.SizeBytes,
                    Owner = known ? source.Allocation.Owner : null,
                    Purpose = known ? source.Allocation.Purpose : null,
                };
                _live[id] = new(made, source.Since, source.Lease);
            }

            if (moved)
            {
                _live.Remove(got.SourceAllocationId);
            }
        }
    }

    private List<string> Ids()
    {
        lock (_live)
        {
            return [.. _live.Keys];
        }
    }
}

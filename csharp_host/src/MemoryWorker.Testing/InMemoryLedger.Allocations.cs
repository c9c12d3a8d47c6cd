using System.Security.Cryptography;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

internal sealed partial class InMemoryLedger
{
    private AllocateResult Allocate(AllocateParams asked, IReadOnlyList<ReleasedMemory> released)
    {
        const string action = MemoryActions.Allocate;
        var device = asked is { DeviceId: null, PlanId: { } planned } ? HeldPlan(planned, action).Device : Device(asked.DeviceId, action);
        var number = ++_named; // An id that nothing comes of is not given out again.
        var plan = asked.PlanId is { } planId ? PlanFor(planId, asked.DeviceId, asked.SizeBytes, null, action) : null;
        CheckMappable(device, asked.MemoryType, action);
        var unloaded = plan is not null ? TakeUp(plan, action)
            : asked.MemoryType == MemoryType.External ? []
            : MakeFit(device, asked.SizeBytes, asked.MakeRoom, action);
        var made = Add(number, device, asked);
        return new AllocateResult
        {
            AllocationId = made.AllocationId,
            DeviceId = device.DeviceId,
            MemoryType = asked.MemoryType,
            SizeBytes = asked.SizeBytes,
            ActualBytes = made.ActualBytes,
            SharedMemory = made.SharedMemory,
            AvailableBytes = Headroom(device),
            ModelsUnloaded = unloaded,
            Released = released,
        };
    }

    private DeallocateResult Deallocate(DeallocateParams asked)
    {
        var one = Allocation(asked.AllocationId, MemoryActions.Deallocate);
        if (one.Asked.Persistent && !asked.Force)
        {
            throw Invalid(
                MemoryActions.Deallocate, "data.force", $"{one.AllocationId} is persistent; send force: true to free it");
        }

        Remove(one);
        return new DeallocateResult
        {
            AllocationId = one.AllocationId,
            DeviceId = one.Device.DeviceId,
            FreedBytes = one.SizeBytes,
            ReturnedBytes = one.IsExternal ? null : one.TakenBytes,
            AvailableBytes = Headroom(one.Device),
        };
    }

    private RenewLeaseResult RenewLease(RenewLeaseParams asked)
    {
        var one = Allocation(asked.AllocationId, MemoryActions.RenewLease);
        one.Lease = Lease.Of(clock, asked.LeaseMs);
        return new RenewLeaseResult { AllocationId = one.AllocationId, LeaseExpiresInMs = asked.LeaseMs };
    }

    private TransferResult Transfer(TransferParams asked, IProgress<ProgressData>? progress)
    {
        const string action = MemoryActions.Transfer;
        var device = FindAllocation(ids.Complete(asked.SourceAllocationId)) is null ? null : Device(asked.DestinationDeviceId, action);
        var number = ++_named;
        var source = Allocation(asked.SourceAllocationId, action);
        if (asked.MemoryType == MemoryType.External)
        {
            throw Unsupported(
                action,
                "external memory is held by the host: the worker has nothing to copy into",
                new() { ["memory_type"] = MemoryType.External.ToWord() });
        }

        if (source.IsExternal)
        {
            throw Unsupported(
                action,
                $"{source.AllocationId} is held by the host: the worker has only the record of it",
                new() { ["allocation_id"] = source.AllocationId, ["memory_type"] = MemoryType.External.ToWord() });
        }

        var opened = new TransferResult
        {
            TransferId = ids.Make("transfer", _transfers.Count + 1),
            State = TransferState.Running,
            SourceAllocationId = source.AllocationId,
            DestinationAllocationId = null,
            SourceDeviceId = source.Device.DeviceId,
            DestinationDeviceId = device!.DeviceId,
            SizeBytes = source.SizeBytes,
            CompletedBytes = 0,
            DurationUs = null,
            BytesPerSecond = null,
            Checksum = null,
            SharedMemory = null,
            Error = null,
        };
        _transfers.Add(opened.TransferId, opened);
        try
        {
            _transfers[opened.TransferId] = Copy(opened, source, device, number, asked);
        }
        catch (WorkerRequestException problem)
        {
            _transfers[opened.TransferId] = opened with
            {
                State = TransferState.Failed,
                Error = new()
                {
                    Code = problem.ErrorCode,
                    Message = problem.Reason,
                    Executed = problem.Executed,
                    Retryable = problem.Retryable,
                    Details = problem.Details,
                },
            };
            return asked.Wait ? throw OfTransfer(problem, opened.TransferId, action) : opened;
        }

        foreach (var done in asked.Wait ? new[] { source.SizeBytes / 2, source.SizeBytes } : [])
        {
            progress?.Report(new ProgressData { CompletedBytes = done, TotalBytes = source.SizeBytes });
        }

        return asked.Wait ? _transfers[opened.TransferId] : opened;
    }

    private TransferResult Copy(
        TransferResult opened, HeldAllocation source, FakeDevice device, long number, TransferParams asked)
    {
        CheckMappable(device, asked.MemoryType, MemoryActions.Transfer);
        MakeFit(device, source.SizeBytes, makeRoom: false, MemoryActions.Transfer);
        var made = Add(number, device, source.Asked with { DeviceId = device.DeviceId, MemoryType = asked.MemoryType });
        if (source.SharedMemory is { } from && made.SharedMemory is { } to)
        {
            File.Copy(from.Path, to.Path, overwrite: true);
        }

        var checksum = asked.Verify ? Checksum(source) : null;
        if (asked.TransferType == TransferType.Move)
        {
            Remove(source);
        }

        return opened with
        {
            State = TransferState.Completed,
            DestinationAllocationId = made.AllocationId,
            CompletedBytes = source.SizeBytes,
            DurationUs = 1,
            Checksum = checksum,
            SharedMemory = made.SharedMemory,
        };
    }

    /// <summary>What a transfer that was opened failed with: it is named.</summary>
    private static WorkerRequestException OfTransfer(WorkerRequestException problem, string transferId, string action) => Refused(
        problem.ErrorCode,
        action,
        problem.Reason,
        problem.Details.EnumerateObject()
            .Select(one => KeyValuePair.Create(one.Name, (object?)one.Value))
            .Prepend(KeyValuePair.Create("transfer_id", (object?)transferId)),
        problem.Retryable);

    private static WorkerRequestException Unsupported(string action, string reason, Dictionary<string, object?> details) =>
        Refused(ErrorCode.Unsupported, action, reason, details);

    private TransferResult GetTransfer(GetTransferParams asked) =>
        _transfers.GetValueOrDefault(ids.Complete(asked.TransferId)) ?? throw Invalid(
            MemoryActions.GetTransfer,
            NotKnown([]),
            ("data.transfer_id", $"no transfer '{ids.Complete(asked.TransferId)}'; the last 1024 are kept"));

    private ClearResult Clear(ClearParams asked)
    {
        var places = Devices(asked.DeviceId, MemoryActions.Clear);
        var kept = new List<Kept>();
        var freed = new List<HeldAllocation>();
        var unloaded = new List<UnloadedModel>();
        if (asked.ClearType is ClearType.Allocations or ClearType.All)
        {
            foreach (var one in _allocations.Values.ToList())
            {
                if (!places.Contains(one.Device) || (asked.Owner is { } owner && owner != one.Asked.Owner))
                {
                    continue;
                }

                if (one.Asked.Persistent && !asked.Force)
                {
                    kept.Add(new() { Id = one.AllocationId, Reason = "persistent; force: true clears it too" });
                    continue;
                }

                Remove(one);
                freed.Add(one);
            }
        }

        if (asked.ClearType is ClearType.Models or ClearType.All)
        {
            foreach (var one in _loaded.Values.Where(one => places.Contains(one.Device)).ToList())
            {
                if (one.Pinned && !asked.Force)
                {
                    kept.Add(new() { Id = one.Model.ModelId, Reason = "pinned; force: true clears it too" });
                    continue;
                }

                unloaded.Add(Unload(one, "unloaded: cleared, as asked"));
            }
        }

        return new ClearResult
        {
            ClearedBytes = freed.Sum(one => one.SizeBytes) + unloaded.Sum(one => one.FreedBytes),
            ReturnedBytes = freed.Sum(one => one.TakenBytes) + unloaded.Sum(one => one.FreedBytes),
            AllocationsFreed = freed.Count,
            ModelsUnloaded = unloaded,
            Kept = kept,
            AllocationIds = [.. freed.Select(one => one.AllocationId)],
        };
    }

    private void CheckMappable(FakeDevice device, MemoryType type, string action)
    {
        if (type == MemoryType.Shared && device.Kind != DeviceKind.Cpu)
        {
            var remedy = devices.FirstOrDefault(one => one.Kind == DeviceKind.Cpu) is { } cpu
                ? $"allocate it on {cpu.DeviceId}"
                : $"give {nameof(InMemoryWorker)} a device of kind {nameof(DeviceKind.Cpu)}";
            throw Refused(
                ErrorCode.Unsupported,
                action,
                $"{device.DeviceId} has no memory that a host could map; {remedy}",
                new Dictionary<string, object?> { ["device_id"] = device.DeviceId, ["memory_type"] = type.ToWord() });
        }
    }

    private HeldAllocation? FindAllocation(string allocationId) =>
        _allocations.Values.FirstOrDefault(one => one.AllocationId == allocationId);

    private HeldAllocation Allocation(string given, string action)
    {
        var allocationId = ids.Complete(given);
        if (FindAllocation(allocationId) is { } found)
        {
            return found;
        }

        var reason = _gone.GetValueOrDefault(allocationId) ?? ids.WhyNone(allocationId);
        throw Refused(
            ErrorCode.AllocationNotFound,
            action,
            $"{allocationId} is not live: {reason.Replace('_', ' ')}",
            new Dictionary<string, object?> { ["allocation_id"] = allocationId, ["reason"] = reason });
    }

    private HeldAllocation Add(long number, FakeDevice device, AllocateParams asked)
    {
        var made = new HeldAllocation
        {
            AllocationId = ids.Make("alloc", number),
            Device = device,
            Asked = asked,
            MadeAt = clock.GetTimestamp(),
            Lease = Lease.Of(clock, asked.LeaseMs),
            SharedMemory = asked.MemoryType == MemoryType.Shared ? MakeFile(asked.SizeBytes) : null,
        };
        _allocations.Add(number, made);
        NotePeaks(device);
        return made;
    }

    private void Remove(HeldAllocation one, string ending = "already_freed")
    {
        _allocations.RemoveAt(_allocations.IndexOfValue(one));
        _gone[one.AllocationId] = ending;
        if (one.SharedMemory is { } shared)
        {
            File.Delete(shared.Path);
        }
    }

    /// <summary>Makes what can be mapped: a file of zeros that is gone with its allocation.</summary>
    private static SharedMemory MakeFile(long bytes)
    {
        var path = Path.Combine(Path.GetTempPath(), $"memory-worker-testing-{Guid.NewGuid():N}");
        using (var file = new FileStream(path, FileMode.CreateNew))
        {
            file.SetLength(bytes);
        }

        return new SharedMemory { Path = path, SizeBytes = bytes, Kind = SharedMemoryKind.File };
    }

    /// <summary>What cannot be mapped was never written, and is all zeros.</summary>
    private static string Checksum(HeldAllocation one)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        using var file = one.SharedMemory is { } shared
            ? new FileStream(shared.Path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite)
            : null;
        var chunk = new byte[1 << 20];
        for (var left = one.SizeBytes; left > 0;)
        {
            var part = (int)Math.Min(left, chunk.Length);
            file?.ReadExactly(chunk, 0, part);
            hash.AppendData(chunk, 0, part);
            left -= part;
        }

        return $"sha256:{Convert.ToHexString(hash.GetHashAndReset()).ToLowerInvariant()}";
    }
}

using System.Numerics;
using System.Security.Cryptography;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

internal sealed partial class InMemoryLedger
{
    private AllocateResult Allocate(AllocateParams asked, IReadOnlyList<ReleasedMemory> released)
    {
        const string action = MemoryActions.Allocate;
        if (asked.SizeBytes < 1)
        {
            throw Invalid(action, "data.size_bytes", "has to be at least 1");
        }

        if (asked.Alignment is { } alignment && (alignment < 1 || !BitOperations.IsPow2(alignment)))
        {
            throw Invalid(action, "data.alignment", $"{alignment} is not a power of two");
        }

        var plan = asked.PlanId is { } planId ? PlanFor(planId, asked.DeviceId, asked.SizeBytes, null, action) : null;
        var device = plan?.Device ?? Device(asked.DeviceId, action);
        CheckMappable(device, asked.MemoryType, action);
        var unloaded = plan is null ? MakeFit(device, asked.SizeBytes, asked.MakeRoom, action) : TakeUp(plan, action);
        var made = Add(device, asked);
        return new AllocateResult
        {
            AllocationId = made.AllocationId,
            DeviceId = device.DeviceId,
            MemoryType = asked.MemoryType,
            SizeBytes = asked.SizeBytes,
            ActualBytes = asked.SizeBytes,
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
            ReturnedBytes = one.SizeBytes,
            AvailableBytes = Headroom(one.Device),
        };
    }

    private RenewLeaseResult RenewLease(RenewLeaseParams asked)
    {
        var one = Allocation(asked.AllocationId, MemoryActions.RenewLease);
        one.ExpiresAt = clock.GetUtcNow().AddMilliseconds(asked.LeaseMs);
        return new RenewLeaseResult { AllocationId = one.AllocationId, LeaseExpiresInMs = asked.LeaseMs };
    }

    private TransferResult Transfer(TransferParams asked, IProgress<ProgressData>? progress)
    {
        const string action = MemoryActions.Transfer;
        var source = Allocation(asked.SourceAllocationId, action);
        var device = Device(asked.DestinationDeviceId, action);
        CheckMappable(device, asked.MemoryType, action);
        MakeFit(device, source.SizeBytes, makeRoom: false, action);
        var made = Add(device, source.Asked with { DeviceId = device.DeviceId, MemoryType = asked.MemoryType });
        if (source.SharedMemory is { } from && made.SharedMemory is { } to)
        {
            File.Copy(from.Path, to.Path, overwrite: true);
        }

        var result = new TransferResult
        {
            TransferId = $"transfer-{_transfers.Count + 1}",
            State = TransferState.Completed,
            SourceAllocationId = source.AllocationId,
            DestinationAllocationId = made.AllocationId,
            SourceDeviceId = source.Device.DeviceId,
            DestinationDeviceId = device.DeviceId,
            SizeBytes = source.SizeBytes,
            CompletedBytes = source.SizeBytes,
            DurationUs = 1,
            BytesPerSecond = null,
            Checksum = asked.Verify ? Checksum(source) : null,
            SharedMemory = made.SharedMemory,
            Error = null,
        };
        _transfers.Add(result.TransferId, result);
        if (asked.TransferType == TransferType.Move)
        {
            Remove(source);
        }

        foreach (var done in new[] { source.SizeBytes / 2, source.SizeBytes })
        {
            progress?.Report(new ProgressData { CompletedBytes = done, TotalBytes = source.SizeBytes });
        }

        return result;
    }

    private TransferResult GetTransfer(GetTransferParams asked) =>
        _transfers.GetValueOrDefault(asked.TransferId) ?? throw Invalid(
            MemoryActions.GetTransfer, "data.transfer_id", $"no transfer '{asked.TransferId}'; the last 1024 are kept");

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

                unloaded.Add(Unload(one, "cleared"));
            }
        }

        var bytes = freed.Sum(one => one.SizeBytes) + unloaded.Sum(one => one.FreedBytes);
        return new ClearResult
        {
            ClearedBytes = bytes,
            ReturnedBytes = bytes,
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
                new Dictionary<string, object?> { ["device_id"] = device.DeviceId });
        }
    }

    private HeldAllocation Allocation(string allocationId, string action)
    {
        if (_allocations.Values.FirstOrDefault(one => one.AllocationId == allocationId) is { } found)
        {
            return found;
        }

        var (word, text) = _gone.Contains(allocationId) ? ("already_freed", "already freed") : ("never_existed", "never existed");
        throw Refused(
            ErrorCode.AllocationNotFound,
            action,
            $"{allocationId} is not live: {text}",
            new Dictionary<string, object?> { ["allocation_id"] = allocationId, ["reason"] = word });
    }

    private HeldAllocation Add(FakeDevice device, AllocateParams asked)
    {
        var name = $"alloc-{++_named}";
        var made = new HeldAllocation
        {
            AllocationId = name,
            Device = device,
            Asked = asked,
            MadeAt = clock.GetTimestamp(),
            ExpiresAt = asked.LeaseMs is { } lease ? clock.GetUtcNow().AddMilliseconds(lease) : null,
            SharedMemory = asked.MemoryType == MemoryType.Shared ? MakeFile(asked.SizeBytes) : null,
        };
        _allocations.Add(_named, made);
        NotePeak(device);
        return made;
    }

    private void Remove(HeldAllocation one)
    {
        _allocations.RemoveAt(_allocations.IndexOfValue(one));
        _gone.Add(one.AllocationId);
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

using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>One row of the ledger.</summary>
internal sealed class HeldAllocation
{
    public required string AllocationId { get; init; }

    public required FakeDevice Device { get; init; }

    public required AllocateParams Asked { get; init; }

    public required long MadeAt { get; init; }

    public required SharedMemory? SharedMemory { get; init; }

    /// <summary>Null for one without a lease.</summary>
    public Lease? Lease { get; set; }

    public long SizeBytes => Asked.SizeBytes;

    /// <summary>What it takes of the device's headroom; 0 for what the host holds.</summary>
    public long TakenBytes => IsExternal ? 0 : ActualBytes;

    public long ActualBytes => IsExternal ? SizeBytes : (SizeBytes + Device.GranuleBytes - 1) / Device.GranuleBytes * Device.GranuleBytes;

    /// <summary>The host holds it, and only the record of it is here.</summary>
    public bool IsExternal => Asked.MemoryType == MemoryType.External;

    public AllocationRow ToRow(TimeProvider clock) => new()
    {
        AllocationId = AllocationId,
        DeviceId = Device.DeviceId,
        MemoryType = Asked.MemoryType,
        SizeBytes = SizeBytes,
        ActualBytes = ActualBytes,
        Owner = Asked.Owner,
        Purpose = Asked.Purpose,
        Persistent = Asked.Persistent,
        AgeMs = (long)clock.GetElapsedTime(MadeAt).TotalMilliseconds,
        LeaseExpiresInMs = Lease?.Left(clock),
        SharedMemory = SharedMemory,
    };
}

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
    public DateTimeOffset? ExpiresAt { get; set; }

    public long SizeBytes => Asked.SizeBytes;

    public AllocationRow ToRow(TimeProvider clock) => new()
    {
        AllocationId = AllocationId,
        DeviceId = Device.DeviceId,
        MemoryType = Asked.MemoryType,
        SizeBytes = SizeBytes,
        ActualBytes = SizeBytes,
        Owner = Asked.Owner,
        Purpose = Asked.Purpose,
        Persistent = Asked.Persistent,
        AgeMs = (long)clock.GetElapsedTime(MadeAt).TotalMilliseconds,
        LeaseExpiresInMs = ExpiresAt is { } end ? (long)(end - clock.GetUtcNow()).TotalMilliseconds : null,
        SharedMemory = SharedMemory,
    };
}

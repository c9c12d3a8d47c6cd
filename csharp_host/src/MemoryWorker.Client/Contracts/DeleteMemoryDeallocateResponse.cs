using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Memory that was given back.</summary>
public sealed record DeleteMemoryDeallocateResponse
{
    /// <summary>Which.</summary>
    public required string AllocationId { get; init; }

    /// <summary>Always true: a refusal is a <see cref="WorkerRequestException"/>.</summary>
    public bool Success => true;

    /// <summary>Where it was.</summary>
    public required string DeviceId { get; init; }

    /// <summary>As the ledger had it.</summary>
    public required long FreedBytes { get; init; }

    /// <summary>As the system measured it; null if unknown.</summary>
    public long? ReturnedBytes { get; init; }

    /// <summary>What can be had now; null if unknown.</summary>
    public long? AvailableBytes { get; init; }

    internal static DeleteMemoryDeallocateResponse From(DeallocateResult wire) => new()
    {
        AllocationId = wire.AllocationId,
        DeviceId = wire.DeviceId,
        FreedBytes = wire.FreedBytes,
        ReturnedBytes = wire.ReturnedBytes,
        AvailableBytes = wire.AvailableBytes,
    };
}

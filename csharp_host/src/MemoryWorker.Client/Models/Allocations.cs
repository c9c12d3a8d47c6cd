using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Memory to be handed out. All or nothing: a failed allocate changes no figure.</summary>
public sealed record PostMemoryAllocateRequest
{
    /// <summary>Bytes, at least 1.</summary>
    public required long SizeBytes { get; init; }

    /// <summary>Where it is to lie; <see cref="MemoryType.Shared"/> can be mapped by this process.</summary>
    public MemoryType MemoryType { get; init; } = MemoryType.Device;

    /// <summary>Null for the worker's default device.</summary>
    public string? DeviceId { get; init; }

    /// <summary>What its bytes are at first.</summary>
    public Initialize Initialize { get; init; } = Initialize.Zero;

    /// <summary>Bytes, a power of two; null for the device's own.</summary>
    public long? Alignment { get; init; }

    /// <summary>What it is for.</summary>
    public string? Purpose { get; init; }

    /// <summary>Who asks.</summary>
    public string? Owner { get; init; }

    /// <summary>Stays when memory is cleared, unless forced.</summary>
    public bool Persistent { get; init; }

    /// <summary>It is freed when this runs out, at least 1 ms; null for never.</summary>
    public TimeSpan? Lease { get; init; }

    /// <summary>Models may be unloaded to make it fit.</summary>
    public bool MakeRoom { get; init; }

    internal AllocateParams ToWire() => new()
    {
        SizeBytes = SizeBytes,
        MemoryType = MemoryType,
        DeviceId = DeviceId,
        Initialize = Initialize,
        Alignment = Alignment,
        Purpose = Purpose,
        Owner = Owner,
        Persistent = Persistent,
        LeaseMs = Lease is { } lease ? (long)lease.TotalMilliseconds : null,
        MakeRoom = MakeRoom,
    };
}

/// <summary>Memory that was handed out.</summary>
/// <param name="AllocationId">Its name from now on.</param>
/// <param name="Success">Always true: a refusal is a <see cref="WorkerRequestException"/>.</param>
/// <param name="DeviceId">Where it is.</param>
/// <param name="MemoryType">Where on the device.</param>
/// <param name="SizeBytes">As asked for.</param>
/// <param name="ActualBytes">As the device rounds it.</param>
/// <param name="SharedMemory">What <see cref="SharedAllocation.Open(SharedMemory, System.IO.MemoryMappedFiles.MemoryMappedFileAccess)"/> maps; null where it can't be.</param>
/// <param name="AvailableBytes">What is left; null if unknown.</param>
/// <param name="ModelsUnloaded">Models that had to go.</param>
public sealed record PostMemoryAllocateResponse(
    string AllocationId,
    bool Success,
    string DeviceId,
    MemoryType MemoryType,
    long SizeBytes,
    long ActualBytes,
    SharedMemory? SharedMemory,
    long? AvailableBytes,
    IReadOnlyList<UnloadedModel> ModelsUnloaded)
{
    internal static PostMemoryAllocateResponse From(AllocateResult wire) => new(
        wire.AllocationId,
        true,
        wire.DeviceId,
        wire.MemoryType,
        wire.SizeBytes,
        wire.ActualBytes,
        wire.SharedMemory,
        wire.AvailableBytes,
        wire.ModelsUnloaded);
}

/// <summary>One allocation to be given back.</summary>
public sealed record DeleteMemoryDeallocateRequest
{
    /// <summary>Which.</summary>
    public required string AllocationId { get; init; }

    /// <summary>Also while it is persistent.</summary>
    public bool Force { get; init; }
}

/// <summary>Memory that was given back.</summary>
/// <param name="AllocationId">Which.</param>
/// <param name="Success">Always true: a refusal is a <see cref="WorkerRequestException"/>.</param>
/// <param name="DeviceId">Where it was.</param>
/// <param name="FreedBytes">As the ledger had it.</param>
/// <param name="ReturnedBytes">As the system measured it; null if unknown.</param>
/// <param name="AvailableBytes">What can be had now; null if unknown.</param>
public sealed record DeleteMemoryDeallocateResponse(
    string AllocationId, bool Success, string DeviceId, long FreedBytes, long? ReturnedBytes, long? AvailableBytes)
{
    internal static DeleteMemoryDeallocateResponse From(DeallocateResult wire) =>
        new(wire.AllocationId, true, wire.DeviceId, wire.FreedBytes, wire.ReturnedBytes, wire.AvailableBytes);
}

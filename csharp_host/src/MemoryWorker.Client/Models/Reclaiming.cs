using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Caches, allocations or models to be given up.</summary>
public sealed record PostMemoryClearRequest
{
    /// <summary>Null for all devices.</summary>
    public string? DeviceId { get; init; }

    /// <summary>What is given up.</summary>
    public ClearType ClearType { get; init; } = ClearType.Cache;

    /// <summary>Only this owner's allocations.</summary>
    public string? Owner { get; init; }

    /// <summary>Also what is persistent or pinned. What is in use always stays.</summary>
    public bool Force { get; init; }

    internal ClearParams ToWire() => new() { DeviceId = DeviceId, ClearType = ClearType, Owner = Owner, Force = Force };
}

/// <summary>What was given up, and what stayed.</summary>
/// <param name="ClearedBytes">By the ledger.</param>
/// <param name="ReturnedBytes">As the system measured it; null if unknown.</param>
/// <param name="AllocationsFreed">How many.</param>
/// <param name="ModelsUnloaded">Which.</param>
/// <param name="Kept">What stayed, and why.</param>
public sealed record PostMemoryClearResponse(
    long ClearedBytes,
    long? ReturnedBytes,
    long AllocationsFreed,
    IReadOnlyList<UnloadedModel> ModelsUnloaded,
    IReadOnlyList<Kept> Kept)
{
    /// <summary>Always true: a refusal is a <see cref="WorkerRequestException"/>.</summary>
    public bool Success => true;

    internal static PostMemoryClearResponse From(ClearResult wire) =>
        new(wire.ClearedBytes, wire.ReturnedBytes, wire.AllocationsFreed, wire.ModelsUnloaded, wire.Kept);
}

/// <summary>Recommended actions to be carried out, up to a level.</summary>
public sealed record PostMemoryOptimizeRequest
{
    /// <summary>Null for all devices.</summary>
    public string? DeviceId { get; init; }

    /// <summary>How far to go.</summary>
    public OptimizationLevel OptimizationLevel { get; init; } = OptimizationLevel.Conservative;

    /// <summary>Only say what would be done.</summary>
    public bool DryRun { get; init; }

    internal OptimizeParams ToWire() =>
        new() { DeviceId = DeviceId, OptimizationLevel = OptimizationLevel, DryRun = DryRun };
}

/// <summary>What optimizing did.</summary>
/// <param name="ReturnedBytes">As the system measured it; null if unknown.</param>
/// <param name="Steps">Each with what was expected and what came back.</param>
/// <param name="PressureBefore">The level before.</param>
/// <param name="PressureAfter">The level after.</param>
public sealed record PostMemoryOptimizeResponse(
    long? ReturnedBytes, IReadOnlyList<OptimizeStep> Steps, PressureLevel PressureBefore, PressureLevel PressureAfter)
{
    /// <summary>Always true: a refusal is a <see cref="WorkerRequestException"/>.</summary>
    public bool Success => true;

    internal static PostMemoryOptimizeResponse From(OptimizeResult wire) =>
        new(wire.ReturnedBytes, wire.Steps, wire.PressureBefore, wire.PressureAfter);
}

/// <summary>Free memory to be joined into larger blocks.</summary>
public sealed record PostMemoryDefragmentRequest
{
    /// <summary>Null for all devices.</summary>
    public string? DeviceId { get; init; }

    /// <summary>May restart the device's own process; its contents are carried over.</summary>
    public bool Aggressive { get; init; }

    internal DefragmentParams ToWire() => new() { DeviceId = DeviceId, Aggressive = Aggressive };
}

/// <summary>What defragmenting did.</summary>
/// <param name="ReturnedBytes">As the system measured it; null if unknown.</param>
/// <param name="AllocationsMoved">How many.</param>
/// <param name="FragmentationBefore">Null where the device cannot tell, or over several.</param>
/// <param name="FragmentationAfter">Null where the device cannot tell, or over several.</param>
/// <param name="Steps">Each with what came back.</param>
/// <param name="Displaced">What a new process had no room for after all, and so waits in host memory.</param>
public sealed record PostMemoryDefragmentResponse(
    long? ReturnedBytes,
    long AllocationsMoved,
    Fragmentation? FragmentationBefore,
    Fragmentation? FragmentationAfter,
    IReadOnlyList<DefragmentStep> Steps,
    IReadOnlyList<ContentsDisplacedData> Displaced)
{
    /// <summary>Always true: a refusal is a <see cref="WorkerRequestException"/>.</summary>
    public bool Success => true;

    internal static PostMemoryDefragmentResponse From(DefragmentResult wire) => new(
        wire.ReturnedBytes,
        wire.AllocationsMoved,
        wire.FragmentationBefore,
        wire.FragmentationAfter,
        wire.Steps,
        wire.Displaced);
}

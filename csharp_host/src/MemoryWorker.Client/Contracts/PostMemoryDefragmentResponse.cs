using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>What defragmenting did.</summary>
public sealed record PostMemoryDefragmentResponse
{
    /// <summary>As the system measured it; null if unknown.</summary>
    public long? ReturnedBytes { get; init; }

    /// <summary>How many.</summary>
    public required long AllocationsMoved { get; init; }

    /// <summary>Null where the device cannot tell, or over several.</summary>
    public Fragmentation? FragmentationBefore { get; init; }

    /// <summary>Null where the device cannot tell, or over several.</summary>
    public Fragmentation? FragmentationAfter { get; init; }

    /// <summary>Each with what came back.</summary>
    public IReadOnlyList<DefragmentStep> Steps { get; init; } = [];

    /// <summary>What a new process had no room for after all, and so waits in host memory; null from a worker that does not say so yet.</summary>
    public IReadOnlyList<ContentsDisplacedData>? Displaced { get; init; }

    /// <summary>Always true: a refusal is a <see cref="WorkerRequestException"/>.</summary>
    public bool Success => true;

    internal static PostMemoryDefragmentResponse From(DefragmentResult wire) => new()
    {
        ReturnedBytes = wire.ReturnedBytes,
        AllocationsMoved = wire.AllocationsMoved,
        FragmentationBefore = wire.FragmentationBefore,
        FragmentationAfter = wire.FragmentationAfter,
        Steps = wire.Steps,
        Displaced = wire.Displaced,
    };
}

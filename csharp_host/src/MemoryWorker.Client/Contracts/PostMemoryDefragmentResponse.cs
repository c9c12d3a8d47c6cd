using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>What defragmenting did.</summary>
/// <param name="ReturnedBytes">As the system measured it; null if unknown.</param>
/// <param name="AllocationsMoved">How many.</param>
/// <param name="FragmentationBefore">Null where the device cannot tell, or over several.</param>
/// <param name="FragmentationAfter">Null where the device cannot tell, or over several.</param>
/// <param name="Steps">Each with what came back.</param>
/// <param name="Displaced">What a new process had no room for after all, and so waits in host memory; null from a worker that does not say so yet.</param>
public sealed record PostMemoryDefragmentResponse(
    long? ReturnedBytes,
    long AllocationsMoved,
    Fragmentation? FragmentationBefore,
    Fragmentation? FragmentationAfter,
    IReadOnlyList<DefragmentStep> Steps,
    IReadOnlyList<ContentsDisplacedData>? Displaced)
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

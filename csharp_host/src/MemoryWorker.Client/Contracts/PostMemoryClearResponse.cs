using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>What was given up, and what stayed.</summary>
/// <param name="ClearedBytes">By the ledger.</param>
/// <param name="ReturnedBytes">As the system measured it; null if unknown.</param>
/// <param name="AllocationsFreed">How many.</param>
/// <param name="ModelsUnloaded">Which.</param>
/// <param name="Kept">What stayed, and why.</param>
/// <param name="AllocationIds">Which allocations were freed; null where they are more than the worker lists, or it does not list them yet.</param>
public sealed record PostMemoryClearResponse(
    long ClearedBytes,
    long? ReturnedBytes,
    long AllocationsFreed,
    IReadOnlyList<UnloadedModel> ModelsUnloaded,
    IReadOnlyList<Kept> Kept,
    IReadOnlyList<string>? AllocationIds)
{
    /// <summary>Always true: a refusal is a <see cref="WorkerRequestException"/>.</summary>
    public bool Success => true;

    internal static PostMemoryClearResponse From(ClearResult wire) =>
        new(wire.ClearedBytes, wire.ReturnedBytes, wire.AllocationsFreed, wire.ModelsUnloaded, wire.Kept, wire.AllocationIds);
}

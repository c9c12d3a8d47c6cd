using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>What was given up, and what stayed.</summary>
public sealed record PostMemoryClearResponse
{
    /// <summary>By the ledger.</summary>
    public required long ClearedBytes { get; init; }

    /// <summary>As the system measured it; null if unknown.</summary>
    public long? ReturnedBytes { get; init; }

    /// <summary>How many.</summary>
    public required long AllocationsFreed { get; init; }

    /// <summary>Which.</summary>
    public IReadOnlyList<UnloadedModel> ModelsUnloaded { get; init; } = [];

    /// <summary>What stayed, and why.</summary>
    public IReadOnlyList<Kept> Kept { get; init; } = [];

    /// <summary>Which allocations were freed; null where they are more than the worker lists, or it does not list them yet.</summary>
    public IReadOnlyList<string>? AllocationIds { get; init; }

    /// <summary>Always true: a refusal is a <see cref="WorkerRequestException"/>.</summary>
    public bool Success => true;

    internal static PostMemoryClearResponse From(ClearResult wire) => new()
    {
        ClearedBytes = wire.ClearedBytes,
        ReturnedBytes = wire.ReturnedBytes,
        AllocationsFreed = wire.AllocationsFreed,
        ModelsUnloaded = wire.ModelsUnloaded,
        Kept = wire.Kept,
        AllocationIds = wire.AllocationIds,
    };
}

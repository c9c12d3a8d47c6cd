using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>One live allocation.</summary>
public sealed record GetMemoryAllocationResponse
{
    /// <summary>As the ledger has it.</summary>
    public required AllocationRow Allocation { get; init; }
}

using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>One live allocation.</summary>
/// <param name="Allocation">As the ledger has it.</param>
public sealed record GetMemoryAllocationResponse(AllocationRow Allocation);

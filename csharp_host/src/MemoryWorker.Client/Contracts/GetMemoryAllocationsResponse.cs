using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>A page of allocations.</summary>
/// <param name="Allocations">Oldest first.</param>
/// <param name="Next">Where the next page begins; null on the last.</param>
public sealed record GetMemoryAllocationsResponse(IReadOnlyList<AllocationRow> Allocations, string? Next)
{
    internal static GetMemoryAllocationsResponse From(GetAllocationsResult wire) => new(wire.Allocations, wire.Next);
}

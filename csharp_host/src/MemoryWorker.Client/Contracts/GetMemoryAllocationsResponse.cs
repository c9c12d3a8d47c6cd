using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>A page of allocations.</summary>
public sealed record GetMemoryAllocationsResponse
{
    /// <summary>Oldest first.</summary>
    public IReadOnlyList<AllocationRow> Allocations { get; init; } = [];

    /// <summary>Where the next page begins; null on the last.</summary>
    public string? Next { get; init; }

    internal static GetMemoryAllocationsResponse From(GetAllocationsResult wire) => new()
    {
        Allocations = wire.Allocations,
        Next = wire.Next,
    };
}

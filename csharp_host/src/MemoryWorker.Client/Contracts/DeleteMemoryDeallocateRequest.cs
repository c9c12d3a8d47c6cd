namespace MemoryWorker.Client;

/// <summary>One allocation to be given back.</summary>
public sealed record DeleteMemoryDeallocateRequest
{
    /// <summary>Which.</summary>
    public required string AllocationId { get; init; }

    /// <summary>Also while it is persistent.</summary>
    public bool Force { get; init; }
}

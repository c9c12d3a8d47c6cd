namespace MemoryWorker.Client;

/// <summary>What a consumer holds, and what giving it back would cost.</summary>
public sealed record MemoryHolding
{
    /// <summary>Bytes that it holds.</summary>
    public required long HeldBytes { get; init; }

    /// <summary>Bytes of them that it can't give back.</summary>
    public long FloorBytes { get; init; }

    /// <summary>What it would give back, cheapest per byte first, 64 at most; any part of one may be asked for.</summary>
    public IReadOnlyList<MemoryOffer> Offers { get; init; } = [];

    /// <summary>Free text, such as <c>response_cache</c>.</summary>
    public string? Kind { get; init; }

    /// <summary>Where the memory is; null for <c>cpu</c>.</summary>
    public string? DeviceId { get; init; }

    /// <summary>Who it is kept for.</summary>
    public string? Owner { get; init; }

    /// <summary>How often something was found in it, since it was made; null if unknown.</summary>
    public long? Hits { get; init; }

    /// <summary>How often nothing was; null if unknown.</summary>
    public long? Misses { get; init; }

    /// <summary>Rebuilding that its hits have saved; null if unknown.</summary>
    public TimeSpan? Saved { get; init; }
}

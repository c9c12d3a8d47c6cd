namespace MemoryWorker.Client;

/// <summary>An allocation that went with its worker.</summary>
public sealed record LostAllocation
{
    /// <summary>As the worker named it. A later worker may use the name again.</summary>
    public required string AllocationId { get; init; }

    /// <summary>Where it was.</summary>
    public required string DeviceId { get; init; }

    /// <summary>As asked for.</summary>
    public required long SizeBytes { get; init; }

    /// <summary>Who had asked for it.</summary>
    public string? Owner { get; init; }

    /// <summary>What for.</summary>
    public string? Purpose { get; init; }
}

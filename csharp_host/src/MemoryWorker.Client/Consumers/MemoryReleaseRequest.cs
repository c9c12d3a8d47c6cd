namespace MemoryWorker.Client;

/// <summary>What a consumer is asked to give back.</summary>
public sealed record MemoryReleaseRequest
{
    /// <summary>How much.</summary>
    public required long Bytes { get; init; }

    /// <summary>The most that it is to hold from now on.</summary>
    public required long LimitBytes { get; init; }

    /// <summary>Why, for a log.</summary>
    public required string Reason { get; init; }

    /// <summary>How long the worker waits before it makes room elsewhere.</summary>
    public required TimeSpan Wait { get; init; }
}

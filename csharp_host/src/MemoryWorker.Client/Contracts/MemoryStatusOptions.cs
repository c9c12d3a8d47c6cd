namespace MemoryWorker.Client;

/// <summary>What a status report is to hold beside the figures.</summary>
public sealed record MemoryStatusOptions
{
    /// <summary>List each device's allocations.</summary>
    public bool IncludeAllocations { get; init; }

    /// <summary>Add up by owner.</summary>
    public bool IncludeUsageStats { get; init; }

    /// <summary>Say how far free memory lies in pieces.</summary>
    public bool IncludeFragmentation { get; init; }

    /// <summary>Read the system now instead of answering from readings up to 100 ms old.</summary>
    public bool Refresh { get; init; }

    /// <summary>Most devices on a page, 1 to 10,000; null for all of them.</summary>
    public int? Limit { get; init; }

    /// <summary>The <see cref="GetMemoryStatusResponse.Next"/> of the page before.</summary>
    public string? After { get; init; }
}

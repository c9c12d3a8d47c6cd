using MemoryWorker.Client.Protocol;

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
}

/// <summary>Where the memory is, on one device or all. Sizes are bytes; what is not known is null.</summary>
/// <param name="Devices">Each device's figures, and whose they are.</param>
/// <param name="Host">The machine's own memory.</param>
/// <param name="PressureLevel">The worst of the devices'.</param>
/// <param name="AgeMs">Age of the oldest reading.</param>
public sealed record GetMemoryStatusResponse(
    IReadOnlyList<DeviceStatus> Devices, HostStatus Host, PressureLevel PressureLevel, long AgeMs)
{
    internal static GetMemoryStatusResponse From(GetStatusResult wire) =>
        new(wire.Devices, wire.Host, wire.PressureLevel, wire.AgeMs);
}

/// <summary>Where the memory of one device is. Sizes are bytes; what is not known is null.</summary>
/// <param name="Device">The device's figures, and whose they are.</param>
/// <param name="Host">The machine's own memory.</param>
/// <param name="AgeMs">Age of the reading.</param>
public sealed record GetMemoryStatusDeviceResponse(DeviceStatus Device, HostStatus Host, long AgeMs);

/// <summary>Allocated bytes by owner, purpose or memory type.</summary>
/// <param name="Devices">Each device's groups.</param>
public sealed record GetMemoryUsageResponse(IReadOnlyList<DeviceUsage> Devices)
{
    internal static GetMemoryUsageResponse From(GetUsageResult wire) => new(wire.Devices);
}

/// <summary>Which allocations to list, oldest first, a page at a time.</summary>
public sealed record GetMemoryAllocationsRequest
{
    /// <summary>Only on this device.</summary>
    public string? DeviceId { get; init; }

    /// <summary>Only this owner's.</summary>
    public string? Owner { get; init; }

    /// <summary>Only for this purpose.</summary>
    public string? Purpose { get; init; }

    /// <summary>Most on a page, 1 to 10,000.</summary>
    public int Limit { get; init; } = 100;

    /// <summary>The <see cref="GetMemoryAllocationsResponse.Next"/> of the page before.</summary>
    public string? After { get; init; }

    internal GetAllocationsParams ToWire() =>
        new() { DeviceId = DeviceId, Owner = Owner, Purpose = Purpose, Limit = Limit, After = After };
}

/// <summary>A page of allocations.</summary>
/// <param name="Allocations">Oldest first.</param>
/// <param name="Next">Where the next page begins; null on the last.</param>
public sealed record GetMemoryAllocationsResponse(IReadOnlyList<AllocationRow> Allocations, string? Next)
{
    internal static GetMemoryAllocationsResponse From(GetAllocationsResult wire) => new(wire.Allocations, wire.Next);
}

/// <summary>One live allocation.</summary>
/// <param name="Allocation">As the ledger has it.</param>
public sealed record GetMemoryAllocationResponse(AllocationRow Allocation);

/// <summary>What has happened lately. A section that was not asked for is null.</summary>
/// <param name="TimeRange">As asked for.</param>
/// <param name="Covered">How far back the record reaches within it.</param>
/// <param name="Actions">How often each action was asked for, and how long it took.</param>
/// <param name="Timeline">Each device's memory over time.</param>
/// <param name="SuspectedLeaks">Owners whose allocations only ever grow, with the evidence.</param>
/// <param name="Evictions">Models that were dropped, and why.</param>
/// <param name="Expirations">Allocations whose lease ran out.</param>
public sealed record GetMemoryAnalyticsResponse(
    TimeSpan TimeRange,
    TimeSpan Covered,
    IReadOnlyList<ActionStatistics>? Actions,
    IReadOnlyList<TimelinePoint>? Timeline,
    IReadOnlyList<SuspectedLeak>? SuspectedLeaks,
    IReadOnlyList<Eviction>? Evictions,
    IReadOnlyList<Expiration>? Expirations)
{
    internal static GetMemoryAnalyticsResponse From(GetAnalyticsResult wire) => new(
        TimeSpan.FromMilliseconds(wire.TimeRangeMs),
        TimeSpan.FromMilliseconds(wire.CoveredMs),
        wire.Actions,
        wire.Timeline,
        wire.SuspectedLeaks,
        wire.Evictions,
        wire.Expirations);
}

/// <summary>The actions worth taking, cheapest per byte first.</summary>
/// <param name="Recommendations">Each can be sent as it stands: <see cref="IServiceMemory.ExecuteRecommendationAsync"/>.</param>
public sealed record GetMemoryOptimizationResponse(IReadOnlyList<Recommendation> Recommendations)
{
    internal static GetMemoryOptimizationResponse From(GetOptimizationRecommendationsResult wire) => new(wire.Recommendations);
}

using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>What has happened lately. A section that was not asked for is null.</summary>
public sealed record GetMemoryAnalyticsResponse
{
    /// <summary>As asked for.</summary>
    public required TimeSpan TimeRange { get; init; }

    /// <summary>How far back the record reaches within it.</summary>
    public required TimeSpan Covered { get; init; }

    /// <summary>How often each action was asked for, and how long it took.</summary>
    public IReadOnlyList<ActionStatistics>? Actions { get; init; }

    /// <summary>Each device's memory over time.</summary>
    public IReadOnlyList<TimelinePoint>? Timeline { get; init; }

    /// <summary>Owners whose allocations only ever grow, with the evidence.</summary>
    public IReadOnlyList<SuspectedLeak>? SuspectedLeaks { get; init; }

    /// <summary>Models that were dropped, and why.</summary>
    public IReadOnlyList<Eviction>? Evictions { get; init; }

    /// <summary>Allocations whose lease ran out.</summary>
    public IReadOnlyList<Expiration>? Expirations { get; init; }

    internal static GetMemoryAnalyticsResponse From(GetAnalyticsResult wire) => new()
    {
        TimeRange = TimeSpan.FromMilliseconds(wire.TimeRangeMs),
        Covered = TimeSpan.FromMilliseconds(wire.CoveredMs),
        Actions = wire.Actions,
        Timeline = wire.Timeline,
        SuspectedLeaks = wire.SuspectedLeaks,
        Evictions = wire.Evictions,
        Expirations = wire.Expirations,
    };
}

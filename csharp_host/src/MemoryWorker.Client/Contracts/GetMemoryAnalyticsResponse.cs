using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

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

using System.Globalization;
using System.Text;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

internal sealed partial class InMemoryLedger
{
    private readonly List<(string Action, long At, long TookUs, bool Failed)> _calls = [];
    private readonly List<(LoadedModel Model, long At, string Reason)> _evictions = [];
    private readonly List<(HeldAllocation Allocation, long At)> _expirations = [];

    private GetAnalyticsResult GetAnalytics(GetAnalyticsParams asked)
    {
        var places = Devices(asked.DeviceId, MemoryActions.GetAnalytics);
        var range = Milliseconds(asked.TimeRange);
        bool Is(AnalyticsSection section) => asked.Include?.Contains(section) ?? true;
        return new()
        {
            TimeRangeMs = range,
            CoveredMs = Math.Min(range, Since(_startedAt)),
            Actions = Is(AnalyticsSection.Actions) ? Statistics(range) : null,
            Timeline = Is(AnalyticsSection.Timeline) ? [.. places.Select(Now)] : null,
            SuspectedLeaks = Is(AnalyticsSection.Leaks) ? [] : null,
            Evictions = !Is(AnalyticsSection.Evictions) ? null :
            [
                .. _evictions
                    .Where(one => places.Contains(one.Model.Device) && Since(one.At) <= range)
                    .Select(one => new Eviction
                    {
                        ModelId = one.Model.Model.ModelId,
                        DeviceId = one.Model.Device.DeviceId,
                        MsAgo = Since(one.At),
                        FreedBytes = one.Model.Model.SizeBytes,
                        ReturnedBytes = one.Model.Model.SizeBytes,
                        Reason = one.Reason,
                    }),
            ],
            Expirations = !Is(AnalyticsSection.Expirations) ? null :
            [
                .. _expirations
                    .Where(one => places.Contains(one.Allocation.Device) && Since(one.At) <= range)
                    .Select(one => new Expiration
                    {
                        AllocationId = one.Allocation.AllocationId,
                        DeviceId = one.Allocation.Device.DeviceId,
                        Owner = one.Allocation.Asked.Owner,
                        MsAgo = Since(one.At),
                        FreedBytes = one.Allocation.SizeBytes,
                        ReturnedBytes = one.Allocation.SizeBytes,
                    }),
            ],
        };
    }

    private List<ActionStatistics> Statistics(long range) =>
    [
        .. _calls
            .Where(one => Since(one.At) <= range)
            .GroupBy(one => one.Action)
            .OrderBy(one => one.Key, StringComparer.Ordinal)
            .Select(one => (one.Key, Calls: one.ToList(), Took: one.Select(call => call.TookUs).Order().ToList()))
            .Select(one => new ActionStatistics
            {
                Action = one.Key,
                Count = one.Calls.Count,
                Errors = one.Calls.Count(call => call.Failed),
                P50Us = Percentile(one.Took, 50),
                P95Us = Percentile(one.Took, 95),
                P99Us = Percentile(one.Took, 99),
                PeakBytes = null,
                DeltaBytes = null,
            }),
    ];

    /// <summary>Device by device what there is at this moment: a ledger without a process keeps no samples.</summary>
    private TimelinePoint Now(FakeDevice device) => new()
    {
        DeviceId = device.DeviceId,
        MsAgo = 0,
        SpanMs = 0,
        AllocatedBytes = AllocatedBytes(device),
        PeakAllocatedBytes = _peaks[device.DeviceId],
        ProcessUsedBytes = UsedBytes(device),
        AvailableBytes = Headroom(device),
        PressureCategory = Level(device),
    };

    private GetMetricsResult GetMetrics()
    {
        var text = new StringBuilder();
        Family("budget", "What this worker may take of it.", Budget);
        Family("allocated", "Live allocations, by the ledger.", AllocatedBytes);
        Family("model", "Loaded models.", ModelBytes);
        Family("available", "What one allocation can get.", Headroom);
        text.Append("# EOF\n");
        return new() { ContentType = "application/openmetrics-text; version=1.0.0; charset=utf-8", Text = text.ToString() };

        void Family(string what, string help, Func<FakeDevice, long> value)
        {
            var name = $"memory_worker_device_{what}_bytes";
            text.Append(CultureInfo.InvariantCulture, $"# HELP {name} {help}\n# TYPE {name} gauge\n# UNIT {name} bytes\n");
            foreach (var device in devices)
            {
                text.Append(CultureInfo.InvariantCulture, $"{name}{{device_id=\"{device.DeviceId}\"}} {value(device)}\n");
            }
        }
    }

    private static long Milliseconds(string text)
    {
        var unit = text.TrimStart("0123456789".ToCharArray());
        var factor = unit switch
        {
            "ms" => 1L,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => 0,
        };
        return factor > 0 && long.TryParse(text[..^unit.Length], CultureInfo.InvariantCulture, out var count)
            ? count * factor
            : throw Invalid(
                MemoryActions.GetAnalytics,
                "data.time_range",
                $"'{text}' is not a duration such as '500ms', '90s', '15m', '1h' or '7d'");
    }

    private static long Percentile(List<long> sorted, int percent) => sorted[Math.Max(0, ((sorted.Count * percent) + 99) / 100 - 1)];
}

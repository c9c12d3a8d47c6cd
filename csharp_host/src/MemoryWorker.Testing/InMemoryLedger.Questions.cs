using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

internal sealed partial class InMemoryLedger
{
    private GetAllocationsResult GetAllocations(GetAllocationsParams asked)
    {
        const string action = MemoryActions.GetAllocations;
        if (asked.AllocationId is { } wanted)
        {
            return new() { Allocations = [Allocation(wanted, action).ToRow(clock)], Next = null };
        }

        var after = 0L;
        if (asked.After is { } page && !long.TryParse(page, out after))
        {
            throw Invalid(action, "data.after", $"'{page}' is not the next of an earlier page");
        }

        var places = Devices(asked.DeviceId, action);
        var found = _allocations
            .Where(one => one.Key > after && places.Contains(one.Value.Device))
            .Where(one => asked.Owner is null || asked.Owner == one.Value.Asked.Owner)
            .Where(one => asked.Purpose is null || asked.Purpose == one.Value.Asked.Purpose)
            .Take((int)Math.Min(asked.Limit, int.MaxValue - 1) + 1)
            .ToList();
        var isMore = found.Count > asked.Limit;
        var shown = found.Take((int)Math.Min(asked.Limit, int.MaxValue)).ToList();
        return new()
        {
            Allocations = [.. shown.Select(one => one.Value.ToRow(clock))],
            Next = isMore ? $"{shown[^1].Key}" : null,
        };
    }

    private GetUsageResult GetUsage(GetUsageParams asked) => new()
    {
        Devices =
        [
            .. Devices(asked.DeviceId, MemoryActions.GetUsage).Select(device => new DeviceUsage
            {
                DeviceId = device.DeviceId,
                AllocatedBytes = AllocatedBytes(device),
                PeakAllocatedBytes = _peaks[device.DeviceId],
                ModelBytes = ModelBytes(device),
                ExternalBytes = ExternalBytes(device),
                ExternalModelBytes = 0,
                ResidentBytes = UsedBytes(device),
                CachedBytes = 0,
                UnattributedBytes = 0,
                ProcessUsedBytes = UsedBytes(device),
                Groups = Groups(device, asked.GroupBy),
            }),
        ],
    };

    private List<UsageGroup> Groups(FakeDevice device, GroupBy by) =>
    [
        .. _allocations.Values
            .Where(one => one.Device == device)
            .GroupBy(one => KeyOf(one, by))
            .Select(group => new UsageGroup
            {
                Key = group.Key,
                AllocatedBytes = group.Sum(one => one.SizeBytes),
                PeakBytes = _groupPeaks[(device.DeviceId, by, group.Key)],
                AllocationCount = group.Count(),
            })
            .OrderByDescending(group => group.AllocatedBytes),
    ];

    private static string? KeyOf(HeldAllocation one, GroupBy by) => by switch
    {
        GroupBy.Purpose => one.Asked.Purpose,
        GroupBy.MemoryType => one.Asked.MemoryType.ToWord(),
        _ => one.Asked.Owner,
    };

    private GetStatusResult GetStatus(GetStatusParams asked)
    {
        var found = Devices(asked.DeviceId, MemoryActions.GetStatus);
        var isMore = false;
        if (asked.After is { } after)
        {
            found = found.Any(one => one.DeviceId == after)
                ? [.. found.SkipWhile(one => one.DeviceId != after).Skip(1)]
                : throw Invalid(MemoryActions.GetStatus, "data.after", $"'{after}' is not the next of an earlier page");
        }

        if (asked.Limit is { } limit && limit < found.Count)
        {
            (found, isMore) = ([.. found.Take((int)limit)], true);
        }

        return new()
        {
            Devices = [.. found.Select(device => Status(device, asked))],
            Host = new() { TotalBytes = null, AvailableBytes = null, ProcessRssBytes = null },
            PressureCategory = found.Select(Level).DefaultIfEmpty().Max(),
            AgeMs = 0,
            Next = isMore ? found[^1].DeviceId : null,
        };
    }

    private static FleetDrainResult Drain(FleetDrainParams asked) => throw Refused(
        ErrorCode.Unsupported,
        FleetActions.Drain,
        $"this worker is no fleet, and has no node '{asked.Node}' to drain: "
        + "ask the `python -m memory_worker fleet` that has it, or stop this worker with worker.shutdown",
        new Dictionary<string, object?> { ["node"] = asked.Node });

    private DeviceStatus Status(FakeDevice device, GetStatusParams asked) => new()
    {
        DeviceId = device.DeviceId,
        Kind = device.Kind,
        Name = device.DeviceId,
        State = device.State,
        StateReason = null,
        AgeMs = 0,
        TotalBytes = device.BudgetBytes,
        BudgetBytes = Budget(device),
        TotalSource = Source.Config,
        BudgetSource = Source.Config,
        UsedBytes = UsedBytes(device),
        UsedSource = Source.Ledger,
        ProcessUsedBytes = UsedBytes(device),
        ProcessUsedSource = Source.Ledger,
        AllocatedBytes = AllocatedBytes(device),
        ExternalBytes = ExternalBytes(device),
        CachedBytes = 0,
        UnattributedBytes = 0,
        AvailableBytes = Headroom(device),
        PeakAllocatedBytes = _peaks[device.DeviceId],
        AllocationCount = _allocations.Values.Count(one => one.Device == device),
        ModelBytes = ModelBytes(device),
        UtilizationPercentage = Percentage(UsedBytes(device), device.BudgetBytes),
        PressureCategory = Level(device),
        Allocations = asked.IncludeAllocations
            ? [.. _allocations.Values.Where(one => one.Device == device).Select(one => one.ToRow(clock))]
            : null,
        Usage = asked.IncludeUsageStats ? Groups(device, GroupBy.Owner) : null,
        Fragmentation = null,
    };

    /// <summary>What a reader of figures is told.</summary>
    public FiguresData Figures()
    {
        lock (_gate)
        {
            Expire();
            return new()
            {
                UptimeMs = Since(_startedAt),
                PressureCategory = devices.Max(Level),
                Devices = [.. devices.Select(Figures)],
                Recommendations = GetRecommendations(new()).Recommendations,
                Skipped = 0,
            };
        }
    }

    private DeviceFigures Figures(FakeDevice device) => new()
    {
        DeviceId = device.DeviceId,
        State = device.State,
        PressureCategory = Level(device),
        PressurePercentage = PressurePercentage(device),
        BudgetBytes = Budget(device),
        AvailableBytes = Headroom(device),
        UsedBytes = UsedBytes(device),
        ProcessUsedBytes = UsedBytes(device),
        AllocatedBytes = AllocatedBytes(device),
        AllocationCount = _allocations.Values.Count(one => one.Device == device),
        ModelBytes = ModelBytes(device),
        CachedBytes = 0,
        Trend = null,
    };

    private GetPressureResult GetPressure(GetPressureParams asked)
    {
        var found = Devices(asked.DeviceId, MemoryActions.GetPressure);
        return new()
        {
            Devices = [.. found.Select(Pressure)],
            PressureCategory = found.Max(Level),
        };
    }

    private DevicePressure Pressure(FakeDevice device) => new()
    {
        DeviceId = device.DeviceId,
        PressureCategory = Level(device),
        PressurePercentage = PressurePercentage(device),
        AvailableMemoryBytes = Headroom(device),
        TotalMemoryBytes = device.BudgetBytes,
        UtilizationPercentage = Percentage(UsedBytes(device), device.BudgetBytes),
        Thresholds = _limits[device.DeviceId].Thresholds,
        Signals =
        [
            new()
            {
                Name = "budget_used_percentage",
                Value = PressurePercentage(device),
                Level = Level(device),
                Source = Source.Config,
            },
        ],
        Trend = null,
        RecommendedActions = [.. Recommended(device).Select(one => one.Row)],
        HeldBy = Holders(device),
    };

    /// <summary>What holds its memory, the largest first, and who alone can free it.</summary>
    private List<Holder> Holders(FakeDevice device)
    {
        var allocations = _allocations.Values
            .Where(one => one.Device == device)
            .GroupBy(one => (
                one.Asked.Owner,
                one.Asked.Purpose,
                FreedBy: one.IsExternal ? FreedBy.Host : one.Lease is null ? FreedBy.Owner : FreedBy.Lease))
            .Select(group => new Holder
            {
                Owner = group.Key.Owner,
                Purpose = group.Key.Purpose,
                Bytes = group.Sum(one => one.SizeBytes),
                AllocationCount = group.Count(),
                OldestAgeMs = group.Max(one => Since(one.MadeAt)),
                Suspected = false,
                FreedBy = group.Key.FreedBy,
            });
        var models = _loaded.Values.Where(one => one.Device == device).Select(one => new Holder
        {
            Owner = one.Model.ModelId,
            Purpose = "model",
            Bytes = one.Model.SizeBytes,
            AllocationCount = null,
            OldestAgeMs = null,
            Suspected = false,
            FreedBy = FreedBy.Worker,
        });
        return [.. allocations.Concat(models).OrderByDescending(one => one.Bytes)];
    }

    private double PressurePercentage(FakeDevice device) =>
        Percentage(Budget(device) - Headroom(device), Budget(device));

    private PressureCategory Level(FakeDevice device)
    {
        var thresholds = _limits[device.DeviceId].Thresholds;
        var now = PressurePercentage(device);
        return now >= thresholds.Critical ? PressureCategory.Critical
            : now >= thresholds.High ? PressureCategory.High
            : now >= thresholds.Moderate ? PressureCategory.Moderate
            : PressureCategory.Low;
    }

    private static double Percentage(long part, long whole) => whole <= 0 ? 100 : Math.Round(100.0 * part / whole, 3);

    private SetLimitsResult SetLimits(SetLimitsParams asked)
    {
        var device = Device(asked.DeviceId, MemoryActions.SetLimits);
        var sent = WireText.ToElement(asked);
        var before = _limits[device.DeviceId];
        var after = before with
        {
            LimitBytes = sent.TryGetProperty("limit_bytes", out _) ? asked.LimitBytes : before.LimitBytes,
            ReserveBytes = asked.ReserveBytes ?? before.ReserveBytes,
            Thresholds = asked.Thresholds is { } wanted
                ? new() { Moderate = wanted.Moderate, High = wanted.High, Critical = wanted.Critical }
                : before.Thresholds,
        };
        _limits[device.DeviceId] = after;
        var over = Math.Max(0, AllocatedBytes(device) + ModelBytes(device) - (after.LimitBytes ?? long.MaxValue));
        return new()
        {
            Previous = before,
            Limits = after,
            AllocationsAffected = over == 0 ? 0 : _allocations.Values.Count(one => one.Device == device),
            BytesOverLimit = over,
        };
    }

    private PlanBatchesResult PlanBatches(PlanBatchesParams asked)
    {
        const string action = MemoryActions.PlanBatches;
        var planId = asked.PlanId is { } given ? ids.Complete(given) : ids.Make("batches", _batchWork.Count + 1);
        if (asked.PlanId is null)
        {
            asked = asked with { DeviceId = Device(asked.DeviceId, action).DeviceId, DoneItems = 0 };
        }
        else if (_batchWork.TryGetValue(planId, out var work))
        {
            asked = work with { DoneItems = asked.DoneItems ?? work.DoneItems };
        }
        else
        {
            throw Refused(
                ErrorCode.PlanStale,
                action,
                $"no work '{planId}' is known: it was forgotten, or never was; ask with item_count anew",
                NotKnown(new() { ["plan_id"] = planId }),
                retryable: true);
        }

        var left = asked.ItemCount!.Value - asked.DoneItems!.Value;
        if (left < 0)
        {
            throw Invalid(action, "data.done_items", $"{asked.DoneItems} of {asked.ItemCount} items are done: that is more than there are");
        }

        var planned = left == 0
            ? new() { BatchSize = 0, BatchCount = 0, PeakBytes = 0, UnbatchedBytes = 0, SavingsPercentage = 0 }
            : Cut(asked, left);
        _batchWork[planId] = asked;
        return planned with { PlanId = planId, RemainingItems = left };
    }

    private PlanBatchesResult Cut(PlanBatchesParams asked, long items)
    {
        const string action = MemoryActions.PlanBatches;
        var (device, each) = (Device(asked.DeviceId, action), asked.BytesPerItem!.Value);
        var available = Headroom(device);
        var usable = (long)(available * asked.MaxFraction);
        var size = Math.Min(items, (usable - asked.FixedBytes) / each);
        if (size < 1)
        {
            var needed = asked.FixedBytes + each;
            throw Refused(
                ErrorCode.OutOfMemory,
                action,
                $"{device.DeviceId} has {available} bytes of headroom, {usable} of them usable; a batch of one item needs {needed}",
                new Dictionary<string, object?>
                {
                    ["device_id"] = device.DeviceId,
                    ["requested_bytes"] = needed,
                    ["available_bytes"] = usable,
                    ["evictable_bytes"] = 0L,
                },
                retryable: CanEverFit(device, (long)Math.Ceiling(needed / asked.MaxFraction)));
        }

        var (peak, whole) = (asked.FixedBytes + (size * each), asked.FixedBytes + (items * each));
        return new()
        {
            BatchSize = size,
            BatchCount = (items + size - 1) / size,
            PeakBytes = peak,
            UnbatchedBytes = whole,
            SavingsPercentage = Math.Round(100 * (1 - ((double)peak / whole)), 3),
        };
    }
}

using System.Globalization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

internal sealed partial class InMemoryLedger
{
    private const double SmallestStep = 0.001;

    private static readonly TimeSpan Idle = TimeSpan.FromMinutes(1);

    private static DefragmentResult Defragment(IReadOnlyList<FakeDevice> places) => new()
    {
        ReturnedBytes = 0,
        AllocationsMoved = 0,
        FragmentationBefore = null,
        FragmentationAfter = null,
        Steps = [.. places.Select(one => new DefragmentStep { Step = $"{one.DeviceId}: nothing is in pieces", ReturnedBytes = 0 })],
        Displaced = [],
    };

    private GetOptimizationRecommendationsResult GetRecommendations(GetOptimizationRecommendationsParams asked)
    {
        var places = Devices(asked.DeviceId, MemoryActions.GetOptimizationRecommendations);
        return new() { Recommendations = [.. places.SelectMany(Recommended).Select(one => one.Row)] };
    }

    private OptimizeResult Optimize(OptimizeParams asked, Given given)
    {
        var places = Devices(asked.DeviceId, MemoryActions.Optimize);
        var released = given.Released;
        var steps = new List<OptimizeStep>();
        var consumersKept = places.SelectMany(one => ConsumersKept(one, asked, released)).ToList();
        foreach (var (row, victims) in places.SelectMany(one => Allowed(one, asked.OptimizationLevel)).ToList())
        {
            steps.Add(new()
            {
                Step = row.Action,
                Data = row.Data,
                ExpectedBytes = row.ExpectedFreedBytes,
                ReturnedBytes = asked.DryRun ? null : victims.Select(one => Unload(one, "unloaded: it was idle")).Sum(one => one.FreedBytes),
                Reason = row.Reason,
            });
        }

        if (asked.DryRun)
        {
            released = [.. ToRelease(asked).Select(one => new ReleasedMemory
            {
                ConsumerId = one.ConsumerId,
                Kind = one.Kind,
                ClaimedBytes = one.ExpectedBytes,
                ReturnedBytes = null,
                CostMs = one.CostMs,
                Reason = one.Reason,
            })];
        }

        return new()
        {
            ClaimedBytes = asked.DryRun ? 0 : steps.Sum(one => one.ExpectedBytes) + released.Sum(one => one.ClaimedBytes),
            ReturnedBytes = asked.DryRun ? 0 : steps.Sum(one => one.ReturnedBytes) + released.Sum(one => one.ReturnedBytes),
            Steps = steps,
            PressureBefore = places.Max(one => given.LevelsBefore[one]),
            PressureAfter = places.Max(Level),
            Released = released,
            ModelsKept = [.. places.SelectMany(one => ModelsKept(one, asked))],
            ConsumersKept = consumersKept,
        };
    }

    /// <summary>What consumers are asked for to make devices calm, beyond the models that go.</summary>
    private List<PlannedRelease> ToRelease(OptimizeParams asked) =>
    [
        .. Devices(asked.DeviceId, MemoryActions.Optimize)
            .SelectMany(device => Releases(device, Wanted(device, asked)))
            .Where(one => IsAllowed(one, asked)),
    ];

    private long Wanted(FakeDevice device, OptimizeParams asked) =>
        BytesToFree(device, PressureCategory.Low) - Allowed(device, asked.OptimizationLevel).Sum(one => one.Row.ExpectedFreedBytes ?? 0);

    private static bool IsAllowed(PlannedRelease one, OptimizeParams asked) =>
        asked.OptimizationLevel != OptimizationLevel.Conservative || one.CostMs == 0;

    /// <summary>Why consumers of a device stay: the level forbids it, they gave nothing, or they are not needed.</summary>
    private IEnumerable<KeptConsumer> ConsumersKept(FakeDevice device, OptimizeParams asked, IReadOnlyList<ReleasedMemory> released)
    {
        var need = Wanted(device, asked);
        var planned = Releases(device, need);
        var gave = released.Where(one => one.ClaimedBytes > 0).Select(one => one.ConsumerId).ToHashSet();
        var held = planned
            .Where(one => !gave.Contains(one.ConsumerId) && (!asked.DryRun || !IsAllowed(one, asked)))
            .Select(one => new KeptConsumer
            {
                ConsumerId = one.ConsumerId,
                Kind = one.Kind,
                PriceMsPerMib = one.CostMs / one.ExpectedBytes * MiB,
                Reason = IsAllowed(one, asked) ? "stays: it gave nothing back" : string.Create(
                    CultureInfo.InvariantCulture,
                    $"stays: {one.ExpectedBytes / MiB:0.###} MiB would be asked for, but conservative asks for nothing that has to be rebuilt"),
            });
        var rest = Kept(device, [.. planned.Select(one => one.ConsumerId), .. gave], need > 0 ? null : "nothing has to be freed", isOnDevice: true);
        return held.Concat(rest).Take(MostKeptConsumers);
    }

    /// <summary>Why models of a device stay, or in a dry run would.</summary>
    private IEnumerable<KeptModel> ModelsKept(FakeDevice device, OptimizeParams asked) => _loaded.Values
        .Where(one => one.Device == device)
        .Select(one => (one.Model.ModelId, Why: WhyKept(one, asked)))
        .Where(one => one.Why is not null)
        .Select(one => new KeptModel { ModelId = one.ModelId, Reason = $"stays: {one.Why}" });

    private string? WhyKept(LoadedModel one, OptimizeParams asked) => asked.OptimizationLevel switch
    {
        _ when one.Pinned => "pinned",
        OptimizationLevel.Conservative => "conservative unloads no model",
        OptimizationLevel.Normal when clock.GetElapsedTime(one.UsedAt) < Idle =>
            $"it was used {Since(one.UsedAt)} ms ago, and normal unloads what was not for {(long)Idle.TotalMilliseconds} ms",
        _ when asked.DryRun => null,
        _ => "it was in use when it was its turn, or enough went without it",
    };

    private IEnumerable<(Recommendation Row, IReadOnlyList<LoadedModel> Models)> Allowed(
        FakeDevice device, OptimizationLevel level) => Recommended(device).Where(one => level switch
        {
            OptimizationLevel.Aggressive => true,
            OptimizationLevel.Normal => one.Row.Action == MemoryActions.UnloadModel,
            _ => false,
        });

    /// <summary>Idle models each by name, and what else may go of models as bytes.</summary>
    private List<(Recommendation Row, IReadOnlyList<LoadedModel> Models)> Recommended(FakeDevice device)
    {
        var found = new List<(Recommendation Row, IReadOnlyList<LoadedModel> Models)>();
        var recent = new List<LoadedModel>();
        foreach (var one in Evictable(device))
        {
            if (clock.GetElapsedTime(one.UsedAt) < Idle)
            {
                recent.Add(one);
                continue;
            }

            found.Add((
                Recommend(
                    MemoryActions.UnloadModel,
                    new() { ["model_id"] = one.Model.ModelId },
                    one.Model.SizeBytes,
                    "loading it again, when it is needed",
                    $"{one.Model.ModelId} was not used for {Since(one.UsedAt)} ms"),
                [one]));
        }

        if (recent.Count > 0)
        {
            var bytes = recent.Sum(one => one.Model.SizeBytes);
            found.Add((
                Recommend(
                    MemoryActions.ModelOptimize,
                    new() { ["device_id"] = device.DeviceId, ["min_memory_to_free_bytes"] = bytes },
                    bytes,
                    "loading them again, when they are needed",
                    $"neither pinned nor in use, but used lately: {string.Join(", ", recent.Select(one => one.Model.ModelId))}"),
                recent));
        }

        return found;
    }

    private static Recommendation Recommend(string action, Dictionary<string, object?> data, long bytes, string costOf, string reason) => new()
    {
        Action = action,
        Data = Details.Of(data),
        ExpectedFreedBytes = bytes,
        CostMs = null,
        CostOf = costOf,
        Reason = reason,
    };
}

using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

internal sealed partial class InMemoryLedger
{
    /// <summary>Unloads models until a goal is met, the one that was used longest ago first, whatever strategy is named.</summary>
    private ModelOptimizeResult OptimizeModels(ModelOptimizeParams asked)
    {
        var places = Devices(asked.DeviceId, MemoryActions.ModelOptimize);
        var (target, least) = (asked.TargetPressureLevel, asked.MinMemoryToFreeBytes ?? 0);
        var everything = target is null && least == 0 && asked.ForceOptimization;
        if (target is null && least == 0 && !everything)
        {
            target = PressureCategory.Moderate;
        }

        var before = places.Max(Level);
        var unloaded = new List<UnloadedModel>();
        var kept = new Dictionary<string, string>();
        var headroom = new Dictionary<FakeDevice, long>();
        var isForced = asked.ForceOptimization || CanMeetTogether(places, asked, least);
        foreach (var place in places)
        {
            var need = everything ? long.MaxValue : Math.Max(BytesToFree(place, target), Math.Max(0, least - unloaded.Sum(one => one.FreedBytes)));
            var left = asked.MaxModelsToUnload - unloaded.Count;
            var rows = Victims(place, asked, need, left, isForced, kept)
                .Select(one => asked.DryRun ? WouldUnload(one) : Unload(one, WhyUnloaded(one)))
                .ToList();
            unloaded.AddRange(rows);
            headroom[place] = asked.DryRun ? rows.Sum(one => one.FreedBytes) : 0;
        }

        var freed = unloaded.Sum(one => one.FreedBytes);
        var isMet = freed >= least && places.All(one => BytesToFree(one, target) <= headroom[one]);
        return new()
        {
            OptimizationTriggered = unloaded.Count > 0 && !asked.DryRun,
            OptimizationStrategy = asked.Strategy,
            MemoryFreedBytes = freed,
            MemoryReturnedBytes = asked.DryRun ? 0 : freed,
            ModelsUnloaded = unloaded,
            ModelsKept = [.. kept.Select(one => new KeptModel { ModelId = one.Key, Reason = one.Value })],
            PerformanceImpact = new() { ReloadMs = unloaded.Count == 0 ? 0 : null, ModelsAffected = unloaded.Count },
            OptimizationTimeMs = 0,
            PressureBefore = before,
            PressureAfter = places.Max(Level),
            GoalMet = isMet,
            Message = Said(unloaded.Count, freed, asked.DryRun) + (everything ? string.Empty : $"; the goal is {(isMet ? "met" : "not met")}"),
        };
    }

    /// <summary>Chooses what goes on a device, and notes why the rest stays.</summary>
    private List<LoadedModel> Victims(
        FakeDevice place, ModelOptimizeParams asked, long need, long? atMost, bool isForced, Dictionary<string, string> kept)
    {
        var free = new List<LoadedModel>();
        foreach (var one in _loaded.Values.OrderBy(one => one.LastUse))
        {
            if (WhyFixed(one, place, asked) is { } reason)
            {
                kept[one.Model.ModelId] = $"stays: {reason}";
            }
            else
            {
                free.Add(one);
            }
        }

        var sizes = free.Select(one => one.Model.SizeBytes).ToList();
        var ceiling = Ceiling(sizes, atMost);
        var within = atMost is null ? string.Empty : $" with {atMost} models";
        List<LoadedModel> going = [];
        var why = "stays: nothing has to be freed";
        if (need > 0 && ceiling < need && !isForced)
        {
            why = $"stays: evicting would not help, {need} bytes are needed and at most {ceiling} can be freed{within}";
        }
        else if (need > 0)
        {
            going = [.. Choose(sizes, Math.Min(need, ceiling), atMost).Select(one => free[one])];
            why = "stays: enough is freed without it";
        }

        foreach (var one in free.Except(going))
        {
            kept[one.Model.ModelId] = why;
        }

        return going;
    }

    private static string? WhyFixed(LoadedModel one, FakeDevice place, ModelOptimizeParams asked)
    {
        if (one.Device != place)
        {
            return $"it is on {one.Device.DeviceId}, memory is needed on {place.DeviceId}";
        }

        return asked.ExcludeModels.Contains(one.Model.ModelId) ? "excluded by the request" : one.Pinned ? "pinned" : null;
    }

    private bool CanMeetTogether(IReadOnlyList<FakeDevice> places, ModelOptimizeParams asked, long least) =>
        places.Count > 1 && least > 0 && places.Sum(place => Ceiling(
            [.. _loaded.Values.Where(one => WhyFixed(one, place, asked) is null).Select(one => one.Model.SizeBytes)],
            asked.MaxModelsToUnload)) >= least;

    private UnloadedModel WouldUnload(LoadedModel one) => new()
    {
        ModelId = one.Model.ModelId,
        FreedBytes = one.Model.SizeBytes,
        ReturnedBytes = null,
        ReloadMs = null,
        Reason = WhyUnloaded(one),
        Mode = UnloadMode.Unload,
    };

    private string Said(int count, long freed, bool isDryRun) =>
        count > 0 ? $"{count} {(count == 1 ? "model" : "models")} {(isDryRun ? "would be unloaded" : "unloaded")}, {freed} bytes"
        : models.Count > 0 ? "nothing was unloaded"
        : "no models are configured, so there is nothing to unload";

    /// <summary>How much has to go until a target is met; 0 without one.</summary>
    private long BytesToFree(FakeDevice device, PressureTarget? target)
    {
        var thresholds = _limits[device.DeviceId].Thresholds;
        double? highest = target switch
        {
            null => null,
            { Percentage: { } percentage } => percentage,
            { Category: PressureCategory.Low } => thresholds.Moderate - SmallestStep,
            { Category: PressureCategory.Moderate } => thresholds.High - SmallestStep,
            { Category: PressureCategory.High } => thresholds.Critical - SmallestStep,
            _ => 100,
        };
        return highest is not { } most || PressurePercentage(device) <= most
            ? 0
            : Math.Max(1, (long)Math.Ceiling(Budget(device) * (1 - (most / 100))) - Headroom(device));
    }

    private static long Ceiling(IReadOnlyList<long> sizes, long? atMost) =>
        atMost is { } most && most < sizes.Count ? sizes.OrderDescending().Take((int)Math.Max(0, most)).Sum() : sizes.Sum();

    /// <summary>
    /// Which of the sizes go, from the front, until so much is freed; one without which at most so many would not be enough is
    /// passed over, and one that the others make up for is spared. The need is not above <see cref="Ceiling"/>.
    /// </summary>
    private static List<int> Choose(IReadOnlyList<long> sizes, long need, long? atMost)
    {
        var (picked, freed) = (new List<int>(), 0L);
        for (var index = 0; index < sizes.Count && freed < need; index++)
        {
            if (atMost is { } most && freed + sizes[index] + Ceiling([.. sizes.Skip(index + 1)], most - picked.Count - 1) < need)
            {
                continue;
            }

            picked.Add(index);
            freed += sizes[index];
        }

        foreach (var index in picked.SkipLast(1).Reverse().Where(index => freed - sizes[index] >= need).ToList())
        {
            if (freed - sizes[index] >= need)
            {
                picked.Remove(index);
                freed -= sizes[index];
            }
        }

        return picked;
    }
}

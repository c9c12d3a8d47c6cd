using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

internal sealed partial class InMemoryLedger
{
    private static readonly TimeSpan PlanLifetime = TimeSpan.FromMinutes(1);

    private readonly Dictionary<string, HeldPlan> _plans = [];
    private long _planned;

    private PlanResult Plan(PlanParams asked)
    {
        var (rows, reasons) = (new List<PlannedCandidate>(), new List<string>());
        var ways = asked.Candidates.Select(way => (way.Name, Required: Requirement(way))).ToList();
        string? selected = null;
        HeldPlan? plan = null;
        foreach (var (name, (device, bytes, modelId)) in ways)
        {
            var needed = HeadroomFor(device, bytes, asked.AllowEviction);
            rows.Add(Planned(name, device, bytes, needed));
            if (selected is not null)
            {
                continue;
            }

            var needs = $"'{name}' needs {bytes} bytes, {Headroom(device)} available on {device.DeviceId}";
            if (!needed.Suffices)
            {
                var after = asked.AllowEviction ? " even if all models that may go went" : string.Empty;
                reasons.Add($"{needs}: {rows[^1].ShortfallBytes} short{after}");
                continue;
            }

            selected = name;
            reasons.Add($"{needs}: chosen, {HowItFits(needed)}");
            if (modelId is not null || bytes > 0)
            {
                plan = new(ids.Make("plan", ++_planned), device, bytes, modelId, needed, LastUses(needed), clock.GetUtcNow() + PlanLifetime);
                _plans.Add(plan.PlanId, plan);
            }
        }

        return new()
        {
            Selected = selected,
            Reason = string.Join("; ", reasons),
            Candidates = rows,
            PlanId = plan?.PlanId,
            PlanExpiresInMs = plan is null ? null : (long)PlanLifetime.TotalMilliseconds,
        };
    }

    private (FakeDevice Device, long Bytes, string? ModelId) Requirement(PlanCandidate way)
    {
        const string action = MemoryActions.Plan;
        if (way.ModelId is not { } modelId)
        {
            return (Device(way.DeviceId, action), way.RequiredBytes ?? 0, null);
        }

        var model = Model(modelId, action);
        return _loaded.TryGetValue(modelId, out var loaded)
            ? (loaded.Device, 0, modelId)
            : (Device(way.DeviceId ?? model.DeviceId, action), model.SizeBytes, modelId);
    }

    private static string HowItFits(NeededHeadroom needed)
    {
        List<string> how = [];
        if (needed.Victims.Count > 0)
        {
            how.Add($"unloading {string.Join(", ", needed.Victims.Select(one => one.Model.ModelId))} frees "
                + $"{needed.Victims.Sum(one => one.Model.SizeBytes)} more");
        }

        if (needed.Releases.Count > 0)
        {
            how.Add($"{string.Join(", ", needed.Releases.Select(one => one.ConsumerId))} may give back "
                + $"{needed.Releases.Sum(one => one.ExpectedBytes)}");
        }

        return how.Count == 0 ? "it fits" : string.Join(" and ", how);
    }

    private PlannedCandidate Planned(string name, FakeDevice device, long bytes, NeededHeadroom needed) => new()
    {
        Name = name,
        Fits = needed.Suffices,
        DeviceId = device.DeviceId,
        ShortfallBytes = Math.Max(0, needed.MissingBytes - needed.CeilingBytes),
        Evictions =
        [
            .. needed.Victims.Select(one => new PlannedEviction
            {
                ModelId = one.Model.ModelId,
                FreedBytes = one.Model.SizeBytes,
                ReloadMs = null,
                Reason = WhyUnloaded(one),
            }),
        ],
        ReloadMs = needed.Victims.Count == 0 ? 0 : null,
        RequiredBytes = bytes,
        Releases = needed.Releases,
        ConsumersKept = needed.Kept,
    };

    /// <summary>
    /// What has to go for so many bytes: first what consumers offer, then the models that were used longest ago; nothing
    /// where all of it is not enough. Below a cap of the worker's own only models help.
    /// </summary>
    private NeededHeadroom HeadroomFor(FakeDevice device, long bytes, bool mayEvict)
    {
        var missing = Math.Max(0, bytes - Headroom(device));
        if (missing == 0 || !mayEvict)
        {
            return new(missing, 0, [], [], []);
        }

        var evictable = Evictable(device).ToList();
        var isCapped = _limits[device.DeviceId].LimitBytes - UsedBytes(device) < bytes;
        var ceiling = evictable.Sum(one => one.Model.SizeBytes)
            + (isCapped ? 0 : Releases(device, long.MaxValue).Sum(one => one.ExpectedBytes));
        if (ceiling < missing)
        {
            return new(missing, ceiling, [], [], Kept(device, [], $"{missing} bytes are needed and at most {ceiling} can be had"));
        }

        IReadOnlyList<PlannedRelease> releases = isCapped ? [] : Releases(device, missing);
        var left = missing - releases.Sum(one => one.ExpectedBytes);
        var victims = left > 0 ? Choose([.. evictable.Select(one => one.Model.SizeBytes)], left, null).Select(one => evictable[one]).ToList() : [];
        var kept = Kept(device, [.. releases.Select(one => one.ConsumerId)], isCapped ? "only the worker's own models can free what is missing below its cap" : null);
        return new(missing, ceiling, releases, victims, kept);
    }

    private HeldPlan HeldPlan(string given, string action)
    {
        var planId = ids.Complete(given);
        return _plans.TryGetValue(planId, out var plan) && plan.ExpiresAt > clock.GetUtcNow()
            ? plan
            : throw Stale(planId, "it was taken up, has expired, or never was", action, isKnown: false);
    }

    private HeldPlan PlanFor(string planId, string? deviceId, long bytes, string? modelId, string action)
    {
        var plan = HeldPlan(planId, action);
        if ((deviceId ?? plan.Device.DeviceId) != plan.Device.DeviceId || plan.ModelId != modelId || plan.RequiredBytes != bytes)
        {
            var what = plan.ModelId is null ? "an allocation" : $"model '{plan.ModelId}'";
            throw Invalid(
                action, "data.plan_id", $"'{plan.PlanId}' is for {what} of {plan.RequiredBytes} bytes on {plan.Device.DeviceId}");
        }

        return plan;
    }

    /// <summary>Checks that a plan can be carried out exactly as it was answered, if so much comes back for it.</summary>
    private void Check(HeldPlan plan, long promisedBytes, string action)
    {
        foreach (var (victim, lastUse) in plan.Needed.Victims.Zip(plan.LastUses))
        {
            if (_loaded.GetValueOrDefault(victim.Model.ModelId) != victim)
            {
                throw Stale(plan.PlanId, $"model '{victim.Model.ModelId}' is not there any more", action);
            }

            if (victim.Pinned || victim.LastUse != lastUse)
            {
                throw Stale(plan.PlanId, $"model '{victim.Model.ModelId}' was used or pinned since", action);
            }
        }

        var missing = Math.Max(0, plan.RequiredBytes - Headroom(plan.Device) - promisedBytes);
        var freed = plan.Needed.Victims.Select(one => one.Model.SizeBytes).ToList();
        if (freed.Sum() < missing)
        {
            throw Stale(plan.PlanId, $"{missing - freed.Sum()} bytes more are missing on {plan.Device.DeviceId} by now", action);
        }

        if (freed.Count > 0 && freed.Sum() - freed.Min() >= missing)
        {
            throw Stale(plan.PlanId, $"fewer models have to go on {plan.Device.DeviceId} by now", action);
        }
    }

    /// <summary>Carries a plan out, whose consumers have been asked, and returns the models that went.</summary>
    private List<UnloadedModel> TakeUp(HeldPlan plan, string action)
    {
        Check(plan, 0, action);
        _plans.Remove(plan.PlanId);
        return [.. plan.Needed.Victims.Select(one => Unload(one, WhyUnloaded(one)))];
    }

    private static List<long> LastUses(NeededHeadroom needed) => [.. needed.Victims.Select(one => one.LastUse)];

    private static WorkerRequestException Stale(string planId, string why, string action, bool isKnown = true)
    {
        var details = new Dictionary<string, object?> { ["plan_id"] = planId };
        var reason = $"'{planId}' can't be taken up: {why}; ask memory.plan again";
        return Refused(ErrorCode.PlanStale, action, reason, isKnown ? details : NotKnown(details), retryable: true);
    }
}

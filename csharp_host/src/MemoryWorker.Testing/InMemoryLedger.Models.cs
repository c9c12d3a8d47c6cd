using System.Globalization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

internal sealed partial class InMemoryLedger
{
    private LoadModelResult LoadModel(LoadModelParams asked, IReadOnlyList<ReleasedMemory> released)
    {
        const string action = MemoryActions.LoadModel;
        var model = Model(asked.ModelId, action);
        IReadOnlyList<UnloadedModel> unloaded = [];
        var isLoaded = _loaded.TryGetValue(model.ModelId, out var loaded);
        var wanted = asked.DeviceId ?? model.DeviceId;
        var plan = asked.PlanId is { } planId
            ? PlanFor(planId, wanted, isLoaded ? 0 : model.SizeBytes, model.ModelId, action)
            : null;
        if (plan is not null)
        {
            unloaded = TakeUp(plan, action);
        }

        if (loaded is null)
        {
            var device = plan?.Device ?? Device(wanted, action);
            unloaded = plan is null ? MakeFit(device, model.SizeBytes, asked.MakeRoom, action) : unloaded;
            _loaded[model.ModelId] = loaded = new LoadedModel { Model = model, Device = device, Pinned = model.Pinned };
        }

        loaded.Pinned = asked.Pin ?? loaded.Pinned;
        loaded.LastUse = ++_uses;
        loaded.Uses++;
        loaded.UsedAt = clock.GetTimestamp();
        var status = Status(model);
        return new()
        {
            ModelId = status.ModelId,
            State = status.State,
            DeviceId = status.DeviceId,
            Loader = status.Loader,
            DeclaredBytes = status.DeclaredBytes,
            EstimatedBytes = status.EstimatedBytes,
            MeasuredBytes = status.MeasuredBytes,
            MeasuredProcessBytes = status.MeasuredProcessBytes,
            Pinned = status.Pinned,
            Priority = status.Priority,
            InUse = status.InUse,
            LoadCount = status.LoadCount,
            UseCount = status.UseCount,
            LoadMs = status.LoadMs,
            LastUsedMsAgo = status.LastUsedMsAgo,
            KeepAliveMs = status.KeepAliveMs,
            ExpiresInMs = status.ExpiresInMs,
            RequestedModelId = model.ModelId,
            FallbackReason = null,
            ModelsUnloaded = unloaded,
            Released = released,
        };
    }

    private UnloadedModel UnloadModel(UnloadModelParams asked)
    {
        var model = Model(asked.ModelId, MemoryActions.UnloadModel);
        return _loaded.TryGetValue(model.ModelId, out var loaded)
            ? Unload(loaded, "asked for")
            : new() { ModelId = model.ModelId, FreedBytes = 0, ReturnedBytes = 0, ReloadMs = null, Reason = "it was not loaded" };
    }

    private GetModelStatusResult GetModelStatus(GetModelStatusParams asked)
    {
        const string action = MemoryActions.GetModelStatus;
        var places = Devices(asked.DeviceId, action);
        var shown = asked.ModelId is { } wanted ? [Model(wanted, action)] : models;
        return new()
        {
            Models = [.. shown.Select(Status).Where(one => asked.DeviceId is null || one.DeviceId == asked.DeviceId)],
            PressureCategory = places.Max(Level),
            PressurePercentage = places.Max(PressurePercentage),
            AvailableOperations = [],
            OptimizationRecommendations = [],
            LastSynchronized = clock.GetUtcNow().ToString("yyyy-MM-ddTHH:mm:ss.fffZ", CultureInfo.InvariantCulture),
        };
    }

    private FakeModel Model(string modelId, string action) =>
        models.FirstOrDefault(one => one.ModelId == modelId) ?? throw Refused(
            ErrorCode.ModelNotFound,
            action,
            $"no model '{modelId}': " + (models.Count == 0
                ? "none are configured"
                : $"there are {string.Join(", ", models.Select(one => one.ModelId))}"),
            new Dictionary<string, object?>
            {
                ["model_id"] = modelId,
                ["known_models"] = models.Select(one => one.ModelId).ToArray(),
            });

    private UnloadedModel Unload(LoadedModel one, string reason)
    {
        _loaded.Remove(one.Model.ModelId);
        _evictions.Add((one, clock.GetTimestamp(), reason));
        return new()
        {
            ModelId = one.Model.ModelId,
            FreedBytes = one.Model.SizeBytes,
            ReturnedBytes = one.Model.SizeBytes,
            ReloadMs = null,
            Reason = reason,
        };
    }

    private ModelStatus Status(FakeModel model)
    {
        var loaded = _loaded.GetValueOrDefault(model.ModelId);
        return new()
        {
            ModelId = model.ModelId,
            State = loaded is null ? ModelState.Unloaded : ModelState.Loaded,
            DeviceId = loaded?.Device.DeviceId,
            Loader = "in-memory",
            DeclaredBytes = model.SizeBytes,
            EstimatedBytes = model.SizeBytes,
            MeasuredBytes = loaded is null ? null : model.SizeBytes,
            MeasuredProcessBytes = null,
            Pinned = loaded?.Pinned ?? model.Pinned,
            Priority = 0,
            InUse = 0,
            LoadCount = loaded is null ? 0 : 1,
            UseCount = loaded?.Uses ?? 0,
            LoadMs = null,
            LastUsedMsAgo = loaded is null ? null : Since(loaded.UsedAt),
            KeepAliveMs = null,
            ExpiresInMs = null,
        };
    }
}

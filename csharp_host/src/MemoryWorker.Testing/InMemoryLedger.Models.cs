using System.Globalization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

internal sealed partial class InMemoryLedger
{
    private readonly Dictionary<string, ModelHistory> _histories = [];

    private ModelHistory History(FakeModel model) =>
        _histories.TryGetValue(model.ModelId, out var found) ? found : _histories[model.ModelId] = new ModelHistory();

    private string WhyUnloaded(LoadedModel one) =>
        $"unloaded: used {one.Uses} {(one.Uses == 1 ? "time" : "times")}, last used {Since(one.UsedAt)} ms ago";

    private ReloadModelsResult ReloadModels() => new()
    {
        Added = [],
        Changed = [],
        Removed = [],
        Kept = [.. models.Select(one => one.ModelId)],
        Refused = [],
    };

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
            unloaded = plan is null ? MakeFit(device, model.SizeBytes, asked.MakeRoom, action, namesEvictable: true) : unloaded;
            _loaded[model.ModelId] = loaded = new LoadedModel { Model = model, Device = device, Pinned = model.Pinned };
            History(model).Loads++;
        }

        loaded.Pinned = asked.Pin ?? loaded.Pinned;
        loaded.LastUse = ++_uses;
        loaded.Uses = ++History(model).Uses;
        History(model).KeepAliveMs = asked.KeepAliveMs switch
        {
            null => History(model).KeepAliveMs,
            < 0 => null,
            var time => time,
        };
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
        if (asked.ByOwner)
        {
            throw Invalid(MemoryActions.UnloadModel, "data.by_owner", $"model '{model.ModelId}' is held by the worker itself");
        }

        var isLoaded = _loaded.TryGetValue(model.ModelId, out var loaded);
        return isLoaded && asked.Mode != UnloadMode.Shrink
            ? Unload(loaded!, "unloaded: as asked")
            : new()
            {
                ModelId = model.ModelId,
                FreedBytes = 0,
                ReturnedBytes = 0,
                ReloadMs = null,
                Reason = $"nothing to {asked.Mode.ToWord()}: {(isLoaded ? "what is loaded is its weights alone" : "it is unloaded")}",
                ClaimedBytes = 0,
                KeptBytes = 0,
                Mode = asked.Mode,
            };
    }

    private GetModelStatusResult GetModelStatus(GetModelStatusParams asked)
    {
        const string action = MemoryActions.GetModelStatus;
        var places = Devices(asked.DeviceId, action);
        var shown = asked.ModelId is { } wanted ? [Model(wanted, action)] : models;
        return new()
        {
            Models = [.. shown.Select(Status).Where(one => asked.DeviceId is null || one.DeviceId is null || one.DeviceId == asked.DeviceId)],
            PressureCategory = places.Max(Level),
            PressurePercentage = places.Max(PressurePercentage),
            AvailableOperations = [MemoryActions.LoadModel, MemoryActions.UnloadModel, MemoryActions.ModelOptimize, MemoryActions.Plan],
            OptimizationRecommendations = [.. places.SelectMany(Recommended).Select(one => one.Row)],
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
            ClaimedBytes = one.Model.SizeBytes,
            KeptBytes = 0,
            Mode = UnloadMode.Unload,
            Steps = [new() { Step = "the device gave the block back", ReturnedBytes = one.Model.SizeBytes }],
        };
    }

    private ModelStatus Status(FakeModel model)
    {
        var loaded = _loaded.GetValueOrDefault(model.ModelId);
        return new()
        {
            ModelId = model.ModelId,
            State = loaded is null ? ModelState.Unloaded : ModelState.Loaded,
            DeviceId = loaded?.Device.DeviceId ?? model.DeviceId,
            Loader = "in-memory",
            DeclaredBytes = model.SizeBytes,
            EstimatedBytes = model.SizeBytes,
            MeasuredBytes = History(model).Loads == 0 ? null : model.SizeBytes,
            MeasuredProcessBytes = null,
            Pinned = loaded?.Pinned ?? model.Pinned,
            Priority = 0,
            InUse = 0,
            LoadCount = History(model).Loads,
            UseCount = History(model).Uses,
            LoadMs = null,
            LastUsedMsAgo = loaded is null ? null : Since(loaded.UsedAt),
            KeepAliveMs = History(model).KeepAliveMs,
            FileLocation = null,
            Names = [],
            ExpiresInMs = loaded is null or { Pinned: true } ? null : History(model).KeepAliveMs - Since(loaded.UsedAt),
        };
    }
}

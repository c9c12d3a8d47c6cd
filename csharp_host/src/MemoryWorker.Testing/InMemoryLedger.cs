using System.Text.Json;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>What one worker holds: budgets, allocations, leases, transfers and models. All of it is guarded by one lock.</summary>
internal sealed partial class InMemoryLedger(
    IReadOnlyList<FakeDevice> devices,
    IReadOnlyList<FakeModel> models,
    TimeProvider clock,
    EventReaders readers,
    int processId,
    Ids ids,
    Dictionary<(MemoryScope, StoreKind, string), HeldStore>? disk)
{
    private const long MaxInflight = 256;
    private const long MaxFrameBytes = 1 << 24;

    private readonly object _gate = new();
    private readonly long _startedAt = clock.GetTimestamp();
    private readonly SortedList<long, HeldAllocation> _allocations = [];
    private readonly Dictionary<string, string> _gone = [];
    private readonly Dictionary<string, TransferResult> _transfers = [];
    private readonly Dictionary<string, LoadedModel> _loaded = [];
    private readonly Dictionary<string, PlanBatchesParams> _batchWork = [];
    private readonly Dictionary<string, Limits> _limits = devices.ToDictionary(
        one => one.DeviceId, one => new Limits { LimitBytes = null, ReserveBytes = 0, Thresholds = one.Thresholds });

    private readonly Dictionary<(string DeviceId, GroupBy By, string? Key), long> _groupPeaks = [];
    private readonly Dictionary<string, long> _peaks = devices.ToDictionary(one => one.DeviceId, _ => 0L);
    private long _uses;
    private long _named;

    /// <summary>Answers one action as the worker would.</summary>
    /// <param name="action">Its name.</param>
    /// <param name="data">Its data.</param>
    /// <param name="progress">Hears of a transfer's progress.</param>
    /// <param name="given">What <see cref="AskAsync"/> had consumers give back for it.</param>
    /// <exception cref="WorkerRequestException">It would refuse; then nothing has changed.</exception>
    public JsonElement Answer(string action, JsonElement data, IProgress<ProgressData>? progress, Given given)
    {
        lock (_gate)
        {
            Expire();
            var (startedAt, failed) = (clock.GetTimestamp(), true);
            try
            {
                var answer = Dispatch();
                failed = false;
                return answer;
            }
            finally
            {
                _calls.Add((action, startedAt, (long)clock.GetElapsedTime(startedAt).TotalMicroseconds, failed));
            }
        }

        JsonElement Dispatch() => action switch
        {
            MemoryActions.Allocate => Run<AllocateParams, AllocateResult>(asked => Allocate(asked, given.Released)),
            MemoryActions.Deallocate => Run<DeallocateParams, DeallocateResult>(Deallocate),
            MemoryActions.RenewLease => Run<RenewLeaseParams, RenewLeaseResult>(RenewLease),
            MemoryActions.Transfer => Run<TransferParams, TransferResult>(asked => Transfer(asked, progress)),
            MemoryActions.GetTransfer => Run<GetTransferParams, TransferResult>(GetTransfer),
            MemoryActions.Clear => Run<ClearParams, ClearResult>(Clear),
            MemoryActions.GetAllocations => Run<GetAllocationsParams, GetAllocationsResult>(GetAllocations),
            MemoryActions.GetUsage => Run<GetUsageParams, GetUsageResult>(GetUsage),
            MemoryActions.GetStatus => Run<GetStatusParams, GetStatusResult>(GetStatus),
            MemoryActions.GetPressure => Run<GetPressureParams, GetPressureResult>(GetPressure),
            MemoryActions.SetLimits => Run<SetLimitsParams, SetLimitsResult>(SetLimits),
            MemoryActions.PlanBatches => Run<PlanBatchesParams, PlanBatchesResult>(PlanBatches),
            FleetActions.Drain => Run<FleetDrainParams, FleetDrainResult>(Drain),
            StoreActions.Open => Run<StoreOpenParams, StoreOpenResult>(_stores.Open),
            StoreActions.Put => Run<StorePutParams, StorePutResult>(PutEntry),
            StoreActions.Get => Run<StoreGetParams, StoreGetResult>(GetEntry),
            StoreActions.Search => Run<StoreSearchParams, StoreSearchResult>(SearchStore),
            StoreActions.LoadFolder => Run<StoreLoadFolderParams, StoreLoadFolderResult>(LoadFolder),
            StoreActions.List => Run<StoreListParams, StoreListResult>(ListEntries),
            StoreActions.Delete => Run<StoreDeleteParams, StoreDeleteResult>(DeleteEntries),
            StoreActions.Clear => Run<StoreClearParams, StoreClearResult>(ClearStore),
            StoreActions.Close => Run<StoreCloseParams, StoreCloseResult>(_stores.Close),
            StoreActions.DeleteScope => Run<StoreDeleteScopeParams, StoreDeleteScopeResult>(_stores.DeleteScope),
            StoreActions.Stats => Run<StoreStatsParams, StoreStatsResult>(_stores.Stats),
            OperationActions.Begin => Run<OperationBeginParams, OperationBeginResult>(BeginOperation),
            OperationActions.End => Run<OperationEndParams, OperationEndResult>(EndOperation),
            MemoryActions.GetModelStatus => Run<GetModelStatusParams, GetModelStatusResult>(GetModelStatus),
            MemoryActions.LoadModel => Run<LoadModelParams, LoadModelResult>(asked => LoadModel(asked, given.Released)),
            MemoryActions.ModelOptimize => Run<ModelOptimizeParams, ModelOptimizeResult>(OptimizeModels),
            MemoryActions.ReloadModels => Run<ReloadModelsParams, ReloadModelsResult>(_ => ReloadModels()),
            MemoryActions.UnloadModel => Run<UnloadModelParams, UnloadedModel>(UnloadModel),
            MemoryActions.Plan => Run<PlanParams, PlanResult>(Plan),
            MemoryActions.Optimize => Run<OptimizeParams, OptimizeResult>(asked => Optimize(asked, given)),
            MemoryActions.GetOptimizationRecommendations =>
                Run<GetOptimizationRecommendationsParams, GetOptimizationRecommendationsResult>(GetRecommendations),
            MemoryActions.Defragment =>
                Run<DefragmentParams, DefragmentResult>(asked => Defragment(Devices(asked.DeviceId, action))),
            MemoryActions.GetAnalytics => Run<GetAnalyticsParams, GetAnalyticsResult>(GetAnalytics),
            MemoryActions.GetMetrics => Run<GetMetricsParams, GetMetricsResult>(_ => GetMetrics()),
            MemoryActions.RegisterConsumer => Run<RegisterConsumerParams, RegisterConsumerResult>(RegisterConsumer),
            MemoryActions.Released => Run<ReleasedParams, ReleasedResult>(Released),
            MemoryActions.UnregisterConsumer => Run<UnregisterConsumerParams, UnregisterConsumerResult>(UnregisterConsumer),
            MemoryActions.GetConsumers => Run<GetConsumersParams, GetConsumersResult>(GetConsumers),
            WorkerActions.Ping => Run<PingParams, PingResult>(_ => new() { UptimeMs = Since(_startedAt) }),
            WorkerActions.GetHealth => Run<GetHealthParams, GetHealthResult>(_ => Health()),
            WorkerActions.Hello => Run<HelloParams, HelloResult>(Hello),
            _ when WireActions.Find(action) is not null => throw Refused(
                ErrorCode.Unsupported,
                action,
                $"{nameof(InMemoryWorker)} keeps no ledger for it; say with {nameof(InMemoryWorker.Answer)} what it answers"),
            _ => throw Refused(ErrorCode.UnknownAction, action, $"no action '{action}'", UnknownAction(action)),
        };

        JsonElement Run<TIn, TOut>(Func<TIn, TOut> answer)
            where TIn : class, IWireRecord<TIn>
            where TOut : class, IWireRecord<TOut> => WireText.ToElement(answer(WireText.FromElement<TIn>(data)));
    }

    /// <summary>Empties the ledger and returns what was in it.</summary>
    public IReadOnlyList<LostAllocation> Lost()
    {
        lock (_gate)
        {
            var lost = _allocations.Values
                .Select(one => new LostAllocation
                {
                    AllocationId = one.AllocationId,
                    DeviceId = one.Device.DeviceId,
                    SizeBytes = one.SizeBytes,
                    Owner = one.Asked.Owner,
                    Purpose = one.Asked.Purpose,
                })
                .ToList();
            foreach (var one in _allocations.Values.ToList())
            {
                Remove(one);
            }

            return lost;
        }
    }

    /// <summary>Throws for a request that the contract does not have so.</summary>
    /// <exception cref="WorkerRequestException">Each fault is named with its path.</exception>
    public static void Check(string action, JsonElement data)
    {
        var faults = RequestCheck.Faults(action, data);
        if (faults.Count > 0)
        {
            throw Invalid(action, [.. faults]);
        }
    }

    internal static WorkerRequestException Refused(
        ErrorCode code, string action, string reason, object? details = null, bool retryable = false) =>
        new(code, action, reason, Details.Of(details), new WorkerFailure { Retryable = retryable });

    internal static WorkerRequestException Invalid(string action, string path, string reason) => Invalid(action, (path, reason));

    private static WorkerRequestException Invalid(string action, params (string Path, string Message)[] faults) =>
        Invalid(action, [], faults);

    private static WorkerRequestException Invalid(
        string action, Dictionary<string, object?> details, params (string Path, string Message)[] faults)
    {
        details["errors"] = faults
            .Select(one => new Dictionary<string, object?> { ["path"] = one.Path, ["message"] = one.Message })
            .ToArray();
        return Refused(
            ErrorCode.InvalidRequest, action, string.Join("; ", faults.Select(one => $"{one.Path}: {one.Message}")), details);
    }

    /// <summary>The details of an id that is none, or none any more.</summary>
    private static Dictionary<string, object?> NotKnown(Dictionary<string, object?> details)
    {
        details["reason"] = "not_known";
        return details;
    }

    private HelloResult Hello(HelloParams asked)
    {
        const long spoken = WireContract.ProtocolVersion;
        if (asked.ProtocolMin > spoken || asked.ProtocolMax < spoken)
        {
            var wanted = asked.ProtocolMin > spoken ? $"at least {asked.ProtocolMin}" : $"at most {asked.ProtocolMax}";
            throw Refused(
                ErrorCode.Unsupported,
                WorkerActions.Hello,
                $"this worker speaks protocol {spoken}; {wanted} asked for",
                new Dictionary<string, object?> { ["protocol"] = spoken });
        }

        return new()
        {
            Protocol = spoken,
            WorkerVersion = "in-memory",
            Pid = processId,
            Actions = [.. WireActions.All.Select(one => one.Name)],
            Limits = new() { MaxFrameBytes = MaxFrameBytes, MaxInflight = MaxInflight },
            SchemaSha256 = string.Empty,
        };
    }

    private GetHealthResult Health()
    {
        IReadOnlyList<PartHealth> parts =
        [
            .. devices.Select(device => new PartHealth
            {
                Name = $"device:{device.DeviceId}",
                State = device.State switch
                {
                    DeviceState.Available => HealthState.Ok,
                    DeviceState.Probing => HealthState.Starting,
                    DeviceState.Lost => HealthState.Failed,
                    _ => HealthState.Off,
                },
                Reason = null,
            }),
        ];
        HealthState[] worstFirst = [HealthState.Failed, HealthState.Starting, HealthState.Ok];
        return new() { State = worstFirst.First(state => state == HealthState.Ok || parts.Any(part => part.State == state)), Parts = parts };
    }

    private long Since(long timestamp) => (long)clock.GetElapsedTime(timestamp).TotalMilliseconds;

    /// <summary>Frees what has a lease that ran out.</summary>
    private void Expire()
    {
        foreach (var one in _allocations.Values.Where(one => one.Lease?.IsOver(clock) == true).ToList())
        {
            _expirations.Add((one, clock.GetTimestamp()));
            Remove(one, "lease_expired");
        }

        _consumers.RemoveAll(one => one.Lease?.IsOver(clock) == true);
        _stores.Expire();
        foreach (var one in _loaded.Values.Where(one => !one.Pinned && Since(one.UsedAt) >= History(one.Model).KeepAliveMs).ToList())
        {
            Unload(one, $"unloaded: idle past its keep-alive of {History(one.Model).KeepAliveMs} ms");
        }
    }

    private FakeDevice Device(string? deviceId, string action) =>
        deviceId is null
            ? devices[0]
            : devices.FirstOrDefault(one => one.DeviceId == deviceId) ?? throw Refused(
                ErrorCode.DeviceNotFound,
                action,
                $"no device '{deviceId}'; there are {string.Join(", ", devices.Select(one => one.DeviceId))}",
                new Dictionary<string, object?>
                {
                    ["device_id"] = deviceId,
                    ["known_devices"] = devices.Select(one => one.DeviceId).ToArray(),
                });

    private IReadOnlyList<FakeDevice> Devices(string? deviceId, string action) =>
        deviceId is null ? devices : [Device(deviceId, action)];

    private long Budget(FakeDevice device) =>
        Math.Min(device.BudgetBytes, _limits[device.DeviceId].LimitBytes ?? long.MaxValue);

    private long AllocatedBytes(FakeDevice device) =>
        _allocations.Values.Where(one => one.Device == device && !one.IsExternal).Sum(one => one.SizeBytes);

    private long ExternalBytes(FakeDevice device) =>
        _allocations.Values.Where(one => one.Device == device && one.IsExternal).Sum(one => one.SizeBytes);

    private long ModelBytes(FakeDevice device) =>
        _loaded.Values.Where(one => one.Device == device).Sum(one => one.Model.SizeBytes);

    private long UsedBytes(FakeDevice device) =>
        _allocations.Values.Where(one => one.Device == device).Sum(one => one.TakenBytes) + ModelBytes(device);

    /// <summary>The models that may go, the one that was used longest ago first.</summary>
    private IOrderedEnumerable<LoadedModel> Evictable(FakeDevice device) =>
        _loaded.Values.Where(one => one.Device == device && !one.Pinned).OrderBy(one => one.LastUse);

    /// <summary>What one allocation can get.</summary>
    private long Headroom(FakeDevice device) => Math.Max(
        0, Math.Min(device.BudgetBytes - UsedBytes(device) - _limits[device.DeviceId].ReserveBytes, BelowCap(device) ?? long.MaxValue));

    /// <summary>What the configured cap leaves, by sizes as asked for; null where there is none.</summary>
    private long? BelowCap(FakeDevice device) =>
        _limits[device.DeviceId].LimitBytes is { } cap ? Math.Max(0, cap - AllocatedBytes(device) - ModelBytes(device)) : null;

    /// <summary>Unloads models until so much fits, if it is to, and returns them.</summary>
    /// <exception cref="WorkerRequestException">It does not fit all the same; then nothing was unloaded.</exception>
    private List<UnloadedModel> MakeFit(
        FakeDevice device, long bytes, bool makeRoom, string action, bool namesEvictable = false)
    {
        if (device.State != DeviceState.Available)
        {
            throw Refusal(
                ErrorCode.DeviceUnavailable,
                action,
                $"{device.DeviceId} is {device.State.ToWord()}: so it was given to {nameof(InMemoryWorker)}",
                Details.Of(new Dictionary<string, object?> { ["device_id"] = device.DeviceId }));
        }

        var evictable = makeRoom ? Evictable(device).ToList() : [];
        if (Headroom(device) + evictable.Sum(one => one.Model.SizeBytes) < bytes)
        {
            throw DoesNotFit(device, bytes, evictable.Sum(one => one.Model.SizeBytes), makeRoom || namesEvictable, action);
        }

        var missing = bytes - Headroom(device);
        var going = missing > 0 ? Choose([.. evictable.Select(one => one.Model.SizeBytes)], missing, null) : [];
        return [.. going.Select(one => Unload(evictable[one], WhyUnloaded(evictable[one])))];
    }

    private WorkerRequestException DoesNotFit(FakeDevice device, long bytes, long evictable, bool mayEvict, string action)
    {
        var (limits, available) = (_limits[device.DeviceId], Headroom(device));
        var isCapped = bytes > BelowCap(device);
        var isReserved = !mayEvict && bytes <= device.BudgetBytes - UsedBytes(device);
        var reason = $"{device.DeviceId} has {available} bytes of headroom; {bytes} asked for";
        reason += isCapped ? $" (limit_bytes is {limits.LimitBytes})" : isReserved ? $" (reserve_bytes is {limits.ReserveBytes})" : string.Empty;
        reason += mayEvict ? $"; unloading models could free {evictable}" : string.Empty;
        var details = new Dictionary<string, object?>
        {
            ["device_id"] = device.DeviceId,
            ["requested_bytes"] = bytes,
            ["available_bytes"] = available,
            ["evictable_bytes"] = evictable,
        };
        var isLimit = isCapped || isReserved;
        return Refused(
            isLimit ? ErrorCode.LimitExceeded : ErrorCode.OutOfMemory, action, reason, details, retryable: !isLimit && CanEverFit(device, bytes));
    }

    /// <summary>Whether it fits once all has gone that may go: what is pinned or persistent stays.</summary>
    private bool CanEverFit(FakeDevice device, long bytes)
    {
        var staying = _allocations.Values.Where(one => one.Device == device && one.Asked.Persistent && !one.IsExternal).Sum(one => one.SizeBytes)
            + _loaded.Values.Where(one => one.Device == device && one.Pinned).Sum(one => one.Model.SizeBytes);
        var limits = _limits[device.DeviceId];
        return bytes <= Math.Min(device.BudgetBytes - limits.ReserveBytes, limits.LimitBytes ?? long.MaxValue) - staying;
    }

    private void NotePeaks(FakeDevice device)
    {
        _peaks[device.DeviceId] = Math.Max(_peaks[device.DeviceId], AllocatedBytes(device));
        foreach (var by in new[] { GroupBy.Owner, GroupBy.Purpose, GroupBy.MemoryType })
        {
            foreach (var group in _allocations.Values.Where(one => one.Device == device).GroupBy(one => KeyOf(one, by)))
            {
                var key = (device.DeviceId, by, group.Key);
                _groupPeaks[key] = Math.Max(_groupPeaks.GetValueOrDefault(key), group.Sum(one => one.SizeBytes));
            }
        }
    }
}

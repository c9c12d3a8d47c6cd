using System.Text.Json;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>What one worker holds: budgets, allocations, leases, transfers and models. All of it is guarded by one lock.</summary>
internal sealed partial class InMemoryLedger(
    IReadOnlyList<FakeDevice> devices, IReadOnlyList<FakeModel> models, TimeProvider clock, EventReaders readers, int processId)
{
    private readonly object _gate = new();
    private readonly long _startedAt = clock.GetTimestamp();
    private readonly SortedList<long, HeldAllocation> _allocations = [];
    private readonly HashSet<string> _gone = [];
    private readonly Dictionary<string, TransferResult> _transfers = [];
    private readonly Dictionary<string, LoadedModel> _loaded = [];
    private readonly Dictionary<string, PlanBatchesParams> _batchWork = [];
    private readonly Dictionary<string, Limits> _limits = devices.ToDictionary(
        one => one.DeviceId, one => new Limits { LimitBytes = null, ReserveBytes = 0, Thresholds = one.Thresholds });

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
            OperationActions.Begin => Run<OperationBeginParams, OperationBeginResult>(BeginOperation),
            OperationActions.End => Run<OperationEndParams, OperationEndResult>(EndOperation),
            MemoryActions.GetModelStatus => Run<GetModelStatusParams, GetModelStatusResult>(GetModelStatus),
            MemoryActions.LoadModel => Run<LoadModelParams, LoadModelResult>(asked => LoadModel(asked, given.Released)),
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
            WorkerActions.Hello => Run<HelloParams, HelloResult>(_ => Hello()),
            _ when WireActions.Find(action) is not null => throw Refused(
                ErrorCode.Unsupported,
                action,
                $"{nameof(InMemoryWorker)} keeps no ledger for it; say with {nameof(InMemoryWorker.Answer)} what it answers"),
            _ => throw Refused(ErrorCode.UnknownAction, action, $"there is no action '{action}'"),
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

    private static WorkerRequestException Refused(
        ErrorCode code, string action, string reason, object? details = null, bool retryable = false) =>
        new(code, action, reason, Details.Of(details), new WorkerFailure { Retryable = retryable });

    private static WorkerRequestException Invalid(string action, string path, string reason) =>
        Refused(ErrorCode.InvalidRequest, action, $"{path}: {reason}", new Dictionary<string, object?>
        {
            ["errors"] = new[] { new Dictionary<string, object?> { ["path"] = path, ["message"] = reason } },
        });

    private HelloResult Hello() => new()
    {
        Protocol = 1,
        WorkerVersion = "in-memory",
        Pid = processId,
        Actions = [.. WireActions.All.Select(one => one.Name)],
        Limits = new() { MaxFrameBytes = 1 << 24, MaxInflight = 256 },
        SchemaSha256 = string.Empty,
    };

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
        var lost = parts.Any(part => part.State == HealthState.Failed);
        return new() { State = lost ? HealthState.Failed : HealthState.Ok, Parts = parts };
    }

    private long Since(long timestamp) => (long)clock.GetElapsedTime(timestamp).TotalMilliseconds;

    /// <summary>Frees what has a lease that ran out.</summary>
    private void Expire()
    {
        foreach (var one in _allocations.Values.Where(one => one.ExpiresAt <= clock.GetUtcNow()).ToList())
        {
            _expirations.Add((one, clock.GetTimestamp()));
            Remove(one);
        }

        _consumers.RemoveAll(one => one.ExpiresAt <= clock.GetUtcNow());
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
        _allocations.Values.Where(one => one.Device == device).Sum(one => one.SizeBytes);

    private long ModelBytes(FakeDevice device) =>
        _loaded.Values.Where(one => one.Device == device).Sum(one => one.Model.SizeBytes);

    private long UsedBytes(FakeDevice device) => AllocatedBytes(device) + ModelBytes(device);

    /// <summary>The models that may go, the one that was used longest ago first.</summary>
    private IOrderedEnumerable<LoadedModel> Evictable(FakeDevice device) =>
        _loaded.Values.Where(one => one.Device == device && !one.Pinned).OrderBy(one => one.LastUse);

    /// <summary>What one allocation can get.</summary>
    private long Headroom(FakeDevice device)
    {
        var used = UsedBytes(device);
        var hardware = device.BudgetBytes - _limits[device.DeviceId].ReserveBytes - used;
        return Math.Max(0, Math.Min(hardware, Budget(device) - used));
    }

    /// <summary>Unloads models until so much fits, if it is to, and returns them.</summary>
    /// <exception cref="WorkerRequestException">It does not fit all the same; then nothing was unloaded.</exception>
    private List<UnloadedModel> MakeFit(FakeDevice device, long bytes, bool makeRoom, string action)
    {
        if (device.State != DeviceState.Available)
        {
            throw Refused(
                ErrorCode.DeviceUnavailable,
                action,
                $"{device.DeviceId} is {device.State.ToString().ToLowerInvariant()}",
                new Dictionary<string, object?> { ["device_id"] = device.DeviceId });
        }

        var evictable = makeRoom ? Evictable(device).ToList() : [];
        var available = Headroom(device);
        if (available + evictable.Sum(one => one.Model.SizeBytes) < bytes)
        {
            throw DoesNotFit(device, bytes, available, evictable.Sum(one => one.Model.SizeBytes), makeRoom, action);
        }

        var unloaded = new List<UnloadedModel>();
        foreach (var one in evictable.TakeWhile(_ => Headroom(device) < bytes))
        {
            unloaded.Add(Unload(one, $"for {bytes} bytes on {device.DeviceId}"));
        }

        return unloaded;
    }

    private WorkerRequestException DoesNotFit(
        FakeDevice device, long bytes, long available, long evictable, bool makeRoom, string action)
    {
        var limit = _limits[device.DeviceId].LimitBytes;
        var reason = $"{device.DeviceId} has {available} bytes of headroom; {bytes} asked for";
        reason += limit is null ? string.Empty : $" (limit_bytes is {limit})";
        reason += makeRoom ? $"; unloading models could free {evictable}" : string.Empty;
        var details = new Dictionary<string, object?>
        {
            ["device_id"] = device.DeviceId,
            ["requested_bytes"] = bytes,
            ["available_bytes"] = available,
            ["evictable_bytes"] = evictable,
        };
        var isLimit = limit < device.BudgetBytes;
        return Refused(isLimit ? ErrorCode.LimitExceeded : ErrorCode.OutOfMemory, action, reason, details, retryable: !isLimit);
    }

    private void NotePeak(FakeDevice device) =>
        _peaks[device.DeviceId] = Math.Max(_peaks[device.DeviceId], AllocatedBytes(device));
}

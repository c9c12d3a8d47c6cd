using System.Globalization;
using System.Runtime.CompilerServices;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <inheritdoc cref="IServiceMemory"/>
public sealed class ServiceMemory(IPythonWorkerService worker) : IServiceMemory
{
    /// <inheritdoc/>
    public async Task<GetMemoryStatusResponse> GetMemoryStatusAsync(
        string? deviceId = null, MemoryStatusOptions? options = null, CancellationToken cancellationToken = default) =>
        GetMemoryStatusResponse.From(await StatusAsync(deviceId, options, cancellationToken).ConfigureAwait(false));

    /// <inheritdoc/>
    public async Task<GetMemoryStatusDeviceResponse> GetMemoryStatusDeviceAsync(
        string deviceId, MemoryStatusOptions? options = null, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(deviceId);
        var wire = await StatusAsync(deviceId, options, cancellationToken).ConfigureAwait(false);
        return new()
        {
            Device = One(wire.Devices, ErrorCode.DeviceNotFound, WireActions.GetStatus, $"'{deviceId}' is not one device"),
            Host = wire.Host,
            Age = TimeSpan.FromMilliseconds(wire.AgeMs),
        };
    }

    /// <inheritdoc/>
    public async Task<GetMemoryUsageResponse> GetMemoryUsageAsync(
        string? deviceId = null, GroupBy groupBy = GroupBy.Owner, CancellationToken cancellationToken = default)
    {
        var request = new GetUsageParams { DeviceId = deviceId, GroupBy = groupBy };
        return GetMemoryUsageResponse.From(
            await AskAsync(WireActions.GetUsage, request, cancellationToken).ConfigureAwait(false));
    }

    /// <inheritdoc/>
    public async Task<GetMemoryAllocationsResponse> GetMemoryAllocationsAsync(
        GetMemoryAllocationsRequest? request = null, CancellationToken cancellationToken = default)
    {
        var wire = (request ?? new()).ToWire();
        return GetMemoryAllocationsResponse.From(
            await AskAsync(WireActions.GetAllocations, wire, cancellationToken).ConfigureAwait(false));
    }

    /// <inheritdoc/>
    public async Task<GetMemoryAllocationResponse> GetMemoryAllocationAsync(
        string allocationId, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(allocationId);
        var request = new GetAllocationsParams { AllocationId = allocationId };
        var wire = await AskAsync(WireActions.GetAllocations, request, cancellationToken).ConfigureAwait(false);
        return new()
        {
            Allocation = One(
                wire.Allocations, ErrorCode.AllocationNotFound, WireActions.GetAllocations, $"there is no allocation '{allocationId}'"),
        };
    }

    /// <inheritdoc/>
    public async Task<PostMemoryAllocateResponse> PostMemoryAllocateAsync(
        PostMemoryAllocateRequest request, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(request);
        return PostMemoryAllocateResponse.From(
            await AskAsync(WireActions.Allocate, request.ToWire(), cancellationToken).ConfigureAwait(false));
    }

    /// <inheritdoc/>
    public Task<DeleteMemoryDeallocateResponse> DeleteMemoryDeallocateAsync(
        DeleteMemoryDeallocateRequest request, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(request);
        return DeleteMemoryAllocationAsync(request.AllocationId, request.Force, cancellationToken);
    }

    /// <inheritdoc/>
    public async Task<DeleteMemoryDeallocateResponse> DeleteMemoryAllocationAsync(
        string allocationId, bool force = false, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(allocationId);
        var request = new DeallocateParams { AllocationId = allocationId, Force = force };
        return DeleteMemoryDeallocateResponse.From(
            await AskAsync(WireActions.Deallocate, request, cancellationToken).ConfigureAwait(false));
    }

    /// <inheritdoc/>
    public Task<RenewLeaseResult> RenewLeaseAsync(
        string allocationId, TimeSpan lease, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(allocationId);
        ArgumentOutOfRangeException.ThrowIfLessThan(lease, TimeSpan.FromMilliseconds(1));
        var request = new RenewLeaseParams { AllocationId = allocationId, LeaseMs = (long)lease.TotalMilliseconds };
        return AskAsync(WireActions.RenewLease, request, cancellationToken);
    }

    /// <inheritdoc/>
    public async Task<PostMemoryTransferResponse> PostMemoryTransferAsync(
        PostMemoryTransferRequest request,
        IProgress<TransferProgress>? progress = null,
        CancellationToken cancellationToken = default) =>
        new(await TransferAsync(request, progress, cancellationToken).ConfigureAwait(false));

    /// <inheritdoc/>
    public async Task<GetMemoryTransferResponse> GetMemoryTransferAsync(
        string transferId, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(transferId);
        var request = new GetTransferParams { TransferId = transferId };
        return new(await AskAsync(WireActions.GetTransfer, request, cancellationToken).ConfigureAwait(false));
    }

    /// <inheritdoc/>
    public async Task<PostMemoryCopyResponse> PostMemoryCopyAsync(
        PostMemoryCopyRequest request,
        IProgress<TransferProgress>? progress = null,
        CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(request);
        return new(await TransferAsync(request.ToTransfer(), progress, cancellationToken).ConfigureAwait(false));
    }

    /// <inheritdoc/>
    public async Task<PostMemoryClearResponse> PostMemoryClearAsync(
        PostMemoryClearRequest? request = null, CancellationToken cancellationToken = default)
    {
        var wire = (request ?? new()).ToWire();
        return PostMemoryClearResponse.From(await AskAsync(WireActions.Clear, wire, cancellationToken).ConfigureAwait(false));
    }

    /// <inheritdoc/>
    public async Task<PostMemoryOptimizeResponse> PostMemoryOptimizeAsync(
        PostMemoryOptimizeRequest? request = null, CancellationToken cancellationToken = default)
    {
        var wire = (request ?? new()).ToWire();
        return PostMemoryOptimizeResponse.From(
            await AskAsync(WireActions.Optimize, wire, cancellationToken).ConfigureAwait(false));
    }

    /// <inheritdoc/>
    public async Task<PostMemoryDefragmentResponse> PostMemoryDefragmentAsync(
        PostMemoryDefragmentRequest? request = null, CancellationToken cancellationToken = default)
    {
        var wire = (request ?? new()).ToWire();
        return PostMemoryDefragmentResponse.From(
            await AskAsync(WireActions.Defragment, wire, cancellationToken).ConfigureAwait(false));
    }

    /// <inheritdoc/>
    public async Task<GetModelMemoryStatusResponse> GetModelMemoryStatusAsync(
        string? modelId = null, string? deviceId = null, CancellationToken cancellationToken = default)
    {
        var request = new GetModelStatusParams { ModelId = modelId, DeviceId = deviceId };
        return GetModelMemoryStatusResponse.From(
            await AskAsync(WireActions.GetModelStatus, request, cancellationToken).ConfigureAwait(false));
    }

    /// <inheritdoc/>
    public async Task<PostTriggerModelMemoryOptimizationResponse> TriggerModelMemoryOptimizationAsync(
        PostTriggerModelMemoryOptimizationRequest? request = null, CancellationToken cancellationToken = default)
    {
        var wire = (request ?? new()).ToWire();
        return PostTriggerModelMemoryOptimizationResponse.From(
            await AskAsync(WireActions.ModelOptimize, wire, cancellationToken).ConfigureAwait(false));
    }

    /// <inheritdoc/>
    public async Task<GetMemoryPressureResponse> GetMemoryPressureAsync(
        string? deviceId = null, CancellationToken cancellationToken = default)
    {
        var request = new GetPressureParams { DeviceId = deviceId };
        return GetMemoryPressureResponse.From(
            await AskAsync(WireActions.GetPressure, request, cancellationToken).ConfigureAwait(false));
    }

    /// <inheritdoc/>
    public async Task<GetMemoryAnalyticsResponse> GetMemoryAnalyticsAsync(
        string? deviceId = null,
        TimeSpan? timeRange = null,
        IReadOnlyList<AnalyticsSection>? include = null,
        CancellationToken cancellationToken = default)
    {
        var range = timeRange ?? TimeSpan.FromHours(1);
        var request = new GetAnalyticsParams { DeviceId = deviceId, TimeRange = ToDuration(range), Include = include };
        return GetMemoryAnalyticsResponse.From(
            await AskAsync(WireActions.GetAnalytics, request, cancellationToken).ConfigureAwait(false));
    }

    /// <inheritdoc/>
    public Task<GetMetricsResult> GetMetricsAsync(CancellationToken cancellationToken = default) =>
        AskAsync(WireActions.GetMetrics, new GetMetricsParams(), cancellationToken);

    /// <inheritdoc/>
    public async Task<GetMemoryOptimizationResponse> GetMemoryOptimizationAsync(
        string? deviceId = null, CancellationToken cancellationToken = default)
    {
        var request = new GetOptimizationRecommendationsParams { DeviceId = deviceId };
        return GetMemoryOptimizationResponse.From(
            await AskAsync(WireActions.GetOptimizationRecommendations, request, cancellationToken).ConfigureAwait(false));
    }

    /// <inheritdoc/>
    public Task<JsonData> ExecuteRecommendationAsync(
        Recommendation recommendation, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(recommendation);
        return AskAsync(WireAction.Plain(recommendation.Action), new JsonData(recommendation.Data), cancellationToken);
    }

    /// <inheritdoc/>
    public Task<LoadModelResult> LoadModelAsync(LoadModelParams request, CancellationToken cancellationToken = default) =>
        AskAsync(WireActions.LoadModel, request, cancellationToken);

    /// <inheritdoc/>
    public Task<UnloadedModel> UnloadModelAsync(
        UnloadModelParams request, CancellationToken cancellationToken = default) =>
        AskAsync(WireActions.UnloadModel, request, cancellationToken);

    /// <inheritdoc/>
    public Task<LoadModelResult> ConfirmModelLoadedAsync(
        string modelId, string? deviceId = null, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(modelId);
        return LoadModelAsync(new LoadModelParams { ModelId = modelId, DeviceId = deviceId }, cancellationToken);
    }

    /// <inheritdoc/>
    public Task<UnloadedModel> ConfirmModelUnloadedAsync(string modelId, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(modelId);
        return UnloadModelAsync(new UnloadModelParams { ModelId = modelId, ByOwner = true }, cancellationToken);
    }

    /// <inheritdoc/>
    public Task<ReloadModelsResult> ReloadModelsAsync(CancellationToken cancellationToken = default) =>
        AskAsync(WireActions.ReloadModels, new ReloadModelsParams(), cancellationToken);

    /// <inheritdoc/>
    public Task<PlanResult> PlanAsync(PlanParams request, CancellationToken cancellationToken = default) =>
        AskAsync(WireActions.Plan, request, cancellationToken);

    /// <inheritdoc/>
    public Task<PlanBatchesResult> PlanBatchesAsync(
        PlanBatchesParams request, CancellationToken cancellationToken = default) =>
        AskAsync(WireActions.PlanBatches, request, cancellationToken);

    /// <inheritdoc/>
    public Task<OperationBeginResult> BeginOperationAsync(string name, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        return AskAsync(WireActions.OperationBegin, new() { Name = name }, cancellationToken);
    }

    /// <inheritdoc/>
    public Task<OperationEndResult> EndOperationAsync(
        string operationId, bool failed = false, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(operationId);
        return AskAsync(WireActions.OperationEnd, new() { OperationId = operationId, Failed = failed }, cancellationToken);
    }

    /// <inheritdoc/>
    public Task<FleetDrainResult> DrainNodeAsync(string node, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(node);
        return AskAsync(WireActions.FleetDrain, new() { Node = node }, cancellationToken);
    }

    /// <inheritdoc/>
    public Task<RegisterConsumerResult> RegisterConsumerAsync(
        RegisterConsumerParams request, CancellationToken cancellationToken = default) =>
        AskAsync(WireActions.RegisterConsumer, request, cancellationToken);

    /// <inheritdoc/>
    public Task<ReleasedResult> ConfirmReleasedAsync(
        string consumerId, long bytes, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(consumerId);
        ArgumentOutOfRangeException.ThrowIfNegative(bytes);
        var request = new ReleasedParams { ConsumerId = consumerId, Bytes = bytes };
        return AskAsync(WireActions.Released, request, cancellationToken);
    }

    /// <inheritdoc/>
    public Task<UnregisterConsumerResult> UnregisterConsumerAsync(
        string consumerId, CancellationToken cancellationToken = default)
    {
        ArgumentException.ThrowIfNullOrEmpty(consumerId);
        return AskAsync(
            WireActions.UnregisterConsumer, new UnregisterConsumerParams { ConsumerId = consumerId }, cancellationToken);
    }

    /// <inheritdoc/>
    public Task<GetConsumersResult> GetConsumersAsync(
        string? deviceId = null, string? kind = null, CancellationToken cancellationToken = default) =>
        AskAsync(
            WireActions.GetConsumers, new GetConsumersParams { DeviceId = deviceId, Kind = kind }, cancellationToken);

    /// <inheritdoc/>
    public Task<SetLimitsResult> SetLimitsAsync(SetLimitsParams request, CancellationToken cancellationToken = default) =>
        AskAsync(WireActions.SetLimits, request, cancellationToken);

    /// <inheritdoc/>
    public Task<HelloResult> GetWorkerAsync(CancellationToken cancellationToken = default) =>
        AskAsync(WireActions.WorkerHello, new HelloParams { HostPid = Environment.ProcessId }, cancellationToken);

    /// <inheritdoc/>
    public Task<GetHealthResult> GetWorkerHealthAsync(CancellationToken cancellationToken = default) =>
        AskAsync(WireActions.WorkerGetHealth, new(), cancellationToken);

    /// <inheritdoc/>
    public Task<PingResult> PingAsync(CancellationToken cancellationToken = default) =>
        AskAsync(WireActions.WorkerPing, new PingParams(), cancellationToken);

    /// <inheritdoc/>
    public IAsyncEnumerable<WorkerEvent> GetMemoryEventsAsync(
        IReadOnlyCollection<EventName>? events = null, CancellationToken cancellationToken = default) =>
        worker.ReadEventsAsync(
            events ?? [.. WireEvents.All.Where(one => one != EventName.MemoryFigures), EventName.Unknown], cancellationToken);

    /// <inheritdoc/>
    public async IAsyncEnumerable<FiguresData> GetMemoryFiguresAsync(
        TimeSpan? every = null, [EnumeratorCancellation] CancellationToken cancellationToken = default)
    {
        var period = every ?? TimeSpan.FromMilliseconds(WireContract.FiguresEveryMs);
        await foreach (var one in worker.ReadEventsAsync([EventName.MemoryFigures], period, cancellationToken).ConfigureAwait(false))
        {
            yield return ((FiguresEvent)one).Data;
        }
    }

    private Task<GetStatusResult> StatusAsync(
        string? deviceId, MemoryStatusOptions? options, CancellationToken cancellationToken)
    {
        options ??= new();
        var request = new GetStatusParams
        {
            DeviceId = deviceId,
            IncludeAllocations = options.IncludeAllocations,
            IncludeUsageStats = options.IncludeUsageStats,
            IncludeFragmentation = options.IncludeFragmentation,
            Refresh = options.Refresh,
            Limit = options.Limit,
            After = options.After,
        };
        return AskAsync(WireActions.GetStatus, request, cancellationToken);
    }

    private Task<TransferResult> TransferAsync(
        PostMemoryTransferRequest request, IProgress<TransferProgress>? progress, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(request);
        var options = new WorkerCallOptions { Progress = progress is null ? null : new TransferReports(progress) };
        return worker.ExecuteAsync(WireActions.Transfer, request.ToWire(), options, cancellationToken);
    }

    private Task<TResult> AskAsync<TParams, TResult>(
        WireAction<TParams, TResult> action, TParams request, CancellationToken cancellationToken)
        where TParams : class, IWireRecord<TParams>
        where TResult : class, IWireRecord<TResult> =>
        worker.ExecuteAsync(action, request, null, cancellationToken);

    private static T One<T>(IReadOnlyList<T> found, ErrorCode code, WireAction action, string reason) =>
        found.Count == 1
            ? found[0]
            : throw new WorkerRequestException(code, action.Name, reason, WireReader.EmptyObject, new WorkerFailure());

    private static string ToDuration(TimeSpan range)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(range, TimeSpan.FromMilliseconds(1), nameof(range));
        var whole = range.TotalMilliseconds <= 999_999_999;
        return string.Create(
            CultureInfo.InvariantCulture,
            $"{(whole ? (long)range.TotalMilliseconds : (long)range.TotalSeconds)}{(whole ? "ms" : "s")}");
    }

    private sealed class TransferReports(IProgress<TransferProgress> target) : IProgress<ProgressData>
    {
        public void Report(ProgressData value) => target.Report(new TransferProgress(value.CompletedBytes, value.TotalBytes));
    }
}

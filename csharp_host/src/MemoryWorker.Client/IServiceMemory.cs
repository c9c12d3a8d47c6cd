using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>
/// The memory service of a host. Every method throws what <see cref="IPythonWorkerService"/> says:
/// <see cref="WorkerRequestException"/> where the worker refuses, another <see cref="WorkerException"/> where it can't
/// answer, and <see cref="OperationCanceledException"/> with the caller's token.
/// Changes are not repeated when the worker dies; reads are, once.
/// </summary>
/// <remarks>
/// <c>Get…</c> reads, <c>Post…</c> makes or changes, <c>Delete…</c> gives back, each with a request and a response of that
/// name, which gain properties and lose none. What has no such name is called as the action is (<see cref="LoadModelAsync"/>
/// is <c>memory.load_model</c>), and takes and answers the wire's own records. The whole table is in the package's README.
/// </remarks>
public interface IServiceMemory
{
    /// <summary>Says where the memory is, on one device or all.</summary>
    /// <exception cref="WorkerRequestException"><c>device_not_found</c>.</exception>
    Task<GetMemoryStatusResponse> GetMemoryStatusAsync(
        string? deviceId = null, MemoryStatusOptions? options = null, CancellationToken cancellationToken = default);

    /// <summary>Says where the memory of one device is.</summary>
    /// <exception cref="WorkerRequestException"><c>device_not_found</c>.</exception>
    Task<GetMemoryStatusDeviceResponse> GetMemoryStatusDeviceAsync(
        string deviceId, MemoryStatusOptions? options = null, CancellationToken cancellationToken = default);

    /// <summary>Adds up allocated bytes by owner, purpose or memory type.</summary>
    /// <exception cref="WorkerRequestException"><c>device_not_found</c>.</exception>
    Task<GetMemoryUsageResponse> GetMemoryUsageAsync(
        string? deviceId = null, GroupBy groupBy = GroupBy.Owner, CancellationToken cancellationToken = default);

    /// <summary>Lists allocations, a page at a time.</summary>
    /// <exception cref="WorkerRequestException"><c>device_not_found</c>, <c>invalid_request</c>.</exception>
    Task<GetMemoryAllocationsResponse> GetMemoryAllocationsAsync(
        GetMemoryAllocationsRequest? request = null, CancellationToken cancellationToken = default);

    /// <summary>Returns one allocation.</summary>
    /// <exception cref="WorkerRequestException"><c>allocation_not_found</c>.</exception>
    Task<GetMemoryAllocationResponse> GetMemoryAllocationAsync(
        string allocationId, CancellationToken cancellationToken = default);

    /// <summary>Hands out memory. What a cancelled call made all the same is given back.</summary>
    /// <exception cref="WorkerRequestException"><c>out_of_memory</c>, <c>limit_exceeded</c>, <c>unsupported</c> and more.</exception>
    Task<PostMemoryAllocateResponse> PostMemoryAllocateAsync(
        PostMemoryAllocateRequest request, CancellationToken cancellationToken = default);

    /// <summary>Gives one allocation back.</summary>
    /// <exception cref="WorkerRequestException"><c>allocation_not_found</c>, or it is persistent and not forced.</exception>
    Task<DeleteMemoryDeallocateResponse> DeleteMemoryDeallocateAsync(
        DeleteMemoryDeallocateRequest request, CancellationToken cancellationToken = default);

    /// <inheritdoc cref="DeleteMemoryDeallocateAsync"/>
    Task<DeleteMemoryDeallocateResponse> DeleteMemoryAllocationAsync(
        string allocationId, bool force = false, CancellationToken cancellationToken = default);

    /// <summary>Has an allocation's lease end that long from now, whatever was left of it; one without a lease gets one.</summary>
    /// <param name="allocationId">Which allocation.</param>
    /// <param name="lease">At least 1 ms.</param>
    /// <param name="cancellationToken">Cancels the call.</param>
    /// <exception cref="WorkerRequestException"><c>allocation_not_found</c>.</exception>
    Task<RenewLeaseResult> RenewLeaseAsync(
        string allocationId, TimeSpan lease, CancellationToken cancellationToken = default);

    /// <summary>Copies or moves an allocation's contents to a new allocation. On any failure all is as before.</summary>
    /// <param name="request">What, and where to.</param>
    /// <param name="progress">Called in order, before the call ends.</param>
    /// <param name="cancellationToken">Cancels the transfer itself.</param>
    /// <exception cref="WorkerRequestException"><c>allocation_not_found</c>, <c>out_of_memory</c>, <c>checksum_mismatch</c> and more.</exception>
    Task<PostMemoryTransferResponse> PostMemoryTransferAsync(
        PostMemoryTransferRequest request,
        IProgress<TransferProgress>? progress = null,
        CancellationToken cancellationToken = default);

    /// <summary>Says how far a transfer has come. The last 1,024 are kept.</summary>
    /// <exception cref="WorkerRequestException">There is no such transfer.</exception>
    Task<GetMemoryTransferResponse> GetMemoryTransferAsync(
        string transferId, CancellationToken cancellationToken = default);

    /// <summary>Copies an allocation's contents to a new allocation.</summary>
    /// <inheritdoc cref="PostMemoryTransferAsync"/>
    Task<PostMemoryCopyResponse> PostMemoryCopyAsync(
        PostMemoryCopyRequest request,
        IProgress<TransferProgress>? progress = null,
        CancellationToken cancellationToken = default);

    /// <summary>Gives up caches, allocations or models.</summary>
    /// <exception cref="WorkerRequestException"><c>device_not_found</c>.</exception>
    Task<PostMemoryClearResponse> PostMemoryClearAsync(
        PostMemoryClearRequest? request = null, CancellationToken cancellationToken = default);

    /// <summary>Carries out the recommended actions up to a level.</summary>
    /// <exception cref="WorkerRequestException"><c>device_not_found</c>.</exception>
    Task<PostMemoryOptimizeResponse> PostMemoryOptimizeAsync(
        PostMemoryOptimizeRequest? request = null, CancellationToken cancellationToken = default);

    /// <summary>Joins free memory into larger blocks and gives back what is not needed.</summary>
    /// <exception cref="WorkerRequestException"><c>device_not_found</c>, <c>unsupported</c>.</exception>
    Task<PostMemoryDefragmentResponse> PostMemoryDefragmentAsync(
        PostMemoryDefragmentRequest? request = null, CancellationToken cancellationToken = default);

    /// <summary>Says which models are configured and where they are.</summary>
    /// <exception cref="WorkerRequestException"><c>device_not_found</c>, <c>model_not_found</c>.</exception>
    Task<GetModelMemoryStatusResponse> GetModelMemoryStatusAsync(
        string? modelId = null, string? deviceId = null, CancellationToken cancellationToken = default);

    /// <summary>Unloads models until a goal is met.</summary>
    /// <exception cref="WorkerRequestException"><c>device_not_found</c>, <c>invalid_request</c>.</exception>
    Task<PostTriggerModelMemoryOptimizationResponse> TriggerModelMemoryOptimizationAsync(
        PostTriggerModelMemoryOptimizationRequest? request = null, CancellationToken cancellationToken = default);

    /// <summary>Says how close devices are to running out, and what would help.</summary>
    /// <exception cref="WorkerRequestException"><c>device_not_found</c>.</exception>
    Task<GetMemoryPressureResponse> GetMemoryPressureAsync(
        string? deviceId = null, CancellationToken cancellationToken = default);

    /// <summary>Says what has happened lately.</summary>
    /// <param name="deviceId">Null for all devices.</param>
    /// <param name="timeRange">How far back, at least 1 ms; null for one hour.</param>
    /// <param name="include">Sections to answer; null for all.</param>
    /// <param name="cancellationToken">Cancels the call.</param>
    /// <exception cref="WorkerRequestException"><c>device_not_found</c>, <c>invalid_request</c>.</exception>
    Task<GetMemoryAnalyticsResponse> GetMemoryAnalyticsAsync(
        string? deviceId = null,
        TimeSpan? timeRange = null,
        IReadOnlyList<AnalyticsSection>? include = null,
        CancellationToken cancellationToken = default);

    /// <summary>All figures as OpenMetrics text, to be served to a metrics collector as it stands.</summary>
    Task<GetMetricsResult> GetMetricsAsync(CancellationToken cancellationToken = default);

    /// <summary>Lists the actions worth taking, cheapest per byte first.</summary>
    /// <exception cref="WorkerRequestException"><c>device_not_found</c>.</exception>
    Task<GetMemoryOptimizationResponse> GetMemoryOptimizationAsync(
        string? deviceId = null, CancellationToken cancellationToken = default);

    /// <summary>Carries out one recommendation as it stands.</summary>
    /// <exception cref="WorkerRequestException">The worker refused it.</exception>
    Task<JsonData> ExecuteRecommendationAsync(
        Recommendation recommendation, CancellationToken cancellationToken = default);

    /// <summary>Loads a model, unless it is loaded; others may be unloaded for it, and are named.</summary>
    /// <exception cref="WorkerRequestException"><c>model_not_found</c>, <c>model_load_failed</c>, <c>out_of_memory</c>.</exception>
    Task<LoadModelResult> LoadModelAsync(LoadModelParams request, CancellationToken cancellationToken = default);

    /// <summary>Unloads a model, or moves it to host memory, and says what went back to the system; one that another process holds is asked for by <see cref="UnloadRequestedEvent"/>.</summary>
    /// <exception cref="WorkerRequestException"><c>model_not_found</c>, <c>model_busy</c>.</exception>
    Task<UnloadedModel> UnloadModelAsync(UnloadModelParams request, CancellationToken cancellationToken = default);

    /// <summary>Tells the worker that this host has loaded a model that it holds itself, uses it again, or keeps it although it was asked to unload it.</summary>
    /// <exception cref="WorkerRequestException"><c>model_not_found</c>, <c>device_not_found</c>, <c>limit_exceeded</c>.</exception>
    Task<LoadModelResult> ConfirmModelLoadedAsync(
        string modelId, string? deviceId = null, CancellationToken cancellationToken = default);

    /// <summary>Tells the worker that this host has unloaded a model that it held itself: only now its memory counts as freed.</summary>
    /// <exception cref="WorkerRequestException"><c>model_not_found</c>, <c>invalid_request</c> for a model that the worker holds.</exception>
    Task<UnloadedModel> ConfirmModelUnloadedAsync(string modelId, CancellationToken cancellationToken = default);

    /// <summary>Reads the file of models again; what is loaded and declared as before stays loaded.</summary>
    /// <exception cref="WorkerRequestException"><c>invalid_request</c>: the file is refused, and all is as before.</exception>
    Task<ReloadModelsResult> ReloadModelsAsync(CancellationToken cancellationToken = default);

    /// <summary>Says which of several candidates would fit first, and what would have to go. Changes nothing.</summary>
    /// <exception cref="WorkerRequestException"><c>device_not_found</c>.</exception>
    Task<PlanResult> PlanAsync(PlanParams request, CancellationToken cancellationToken = default);

    /// <summary>Says how to cut work into batches that fit; with <c>PlanId</c> and <c>DoneItems</c> the rest of it anew, by what headroom there is by then.</summary>
    /// <exception cref="WorkerRequestException"><c>device_not_found</c>, <c>out_of_memory</c>, <c>plan_stale</c>.</exception>
    Task<PlanBatchesResult> PlanBatchesAsync(PlanBatchesParams request, CancellationToken cancellationToken = default);

    /// <summary>Begins to measure something that this host does, as <c>operation:NAME</c> of the analytics; returns the id that ends it.</summary>
    /// <exception cref="WorkerRequestException"><c>limit_exceeded</c> where 1,024 are under way.</exception>
    Task<OperationBeginResult> BeginOperationAsync(string name, CancellationToken cancellationToken = default);

    /// <summary>Ends an operation, and says what it took: its time, and how the worker's process grew.</summary>
    /// <exception cref="WorkerRequestException"><c>operation_not_found</c>.</exception>
    Task<OperationEndResult> EndOperationAsync(
        string operationId, bool failed = false, CancellationToken cancellationToken = default);

    /// <summary>Empties a node of a fleet, so that it can be taken away; nothing is placed on it until it is started again.</summary>
    /// <exception cref="WorkerRequestException"><c>node_not_found</c>; <c>unsupported</c> where the worker is no fleet.</exception>
    Task<FleetDrainResult> DrainNodeAsync(string node, CancellationToken cancellationToken = default);

    /// <summary>Says what a consumer of this host's own memory holds, and what giving it back would cost; sent again, it updates. It is asked by <see cref="ReleaseRequestedEvent"/>, and only where that is listened to.</summary>
    /// <exception cref="WorkerRequestException"><c>device_not_found</c>, <c>invalid_request</c> for a name of the worker's own.</exception>
    Task<RegisterConsumerResult> RegisterConsumerAsync(
        RegisterConsumerParams request, CancellationToken cancellationToken = default);

    /// <summary>Tells the worker that a consumer gave so much back, 0 for nothing: the answer to <see cref="ReleaseRequestedEvent"/>, or of its own accord.</summary>
    /// <exception cref="WorkerRequestException"><c>consumer_not_found</c>.</exception>
    Task<ReleasedResult> ConfirmReleasedAsync(
        string consumerId, long bytes, CancellationToken cancellationToken = default);

    /// <summary>Has a consumer forgotten; says whether it was known.</summary>
    Task<UnregisterConsumerResult> UnregisterConsumerAsync(
        string consumerId, CancellationToken cancellationToken = default);

    /// <summary>Says what holds memory, the worker's own models and pools among it, and what giving it back costs.</summary>
    /// <exception cref="WorkerRequestException"><c>device_not_found</c>.</exception>
    Task<GetConsumersResult> GetConsumersAsync(
        string? deviceId = null, string? kind = null, CancellationToken cancellationToken = default);

    /// <summary>Changes a device's limits. What is not assigned stays; a null limit takes the cap away.</summary>
    /// <exception cref="WorkerRequestException"><c>device_not_found</c>, <c>invalid_request</c>.</exception>
    Task<SetLimitsResult> SetLimitsAsync(SetLimitsParams request, CancellationToken cancellationToken = default);

    /// <summary>Says who answers, and what it can be asked.</summary>
    Task<HelloResult> GetWorkerAsync(CancellationToken cancellationToken = default);

    /// <summary>Says how each part of the worker is: its requests, events, log, devices, models, followed servers, stores and files.</summary>
    Task<GetHealthResult> GetWorkerHealthAsync(CancellationToken cancellationToken = default);

    /// <summary>Asks whether the worker answers.</summary>
    Task<PingResult> PingAsync(CancellationToken cancellationToken = default);

    /// <summary>Events as they come, from this worker and its successors, until the token is cancelled.</summary>
    /// <param name="events">Which; null for all that tell of what happened.</param>
    /// <param name="cancellationToken">Ends the stream with <see cref="OperationCanceledException"/>.</param>
    IAsyncEnumerable<WorkerEvent> GetMemoryEventsAsync(
        IReadOnlyCollection<EventName>? events = null, CancellationToken cancellationToken = default);

    /// <summary>Every device's figures and what would help, at once and then so often, from this worker and its successors, until the token is cancelled.</summary>
    /// <param name="every">How often, from a second to a day; null for every 30 s. Of several readers the one that wants them most often decides.</param>
    /// <param name="cancellationToken">Ends the stream with <see cref="OperationCanceledException"/>.</param>
    IAsyncEnumerable<FiguresData> GetMemoryFiguresAsync(TimeSpan? every = null, CancellationToken cancellationToken = default);
}

using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;
using Worker = MemoryWorker.Client;

namespace ApiResponseHost;

/// <inheritdoc cref="IServiceMemory"/>
internal sealed class ServiceMemory(Worker.IServiceMemory memory, DeviceNames names) : IServiceMemory
{
    private const int PageSize = 10_000;

    private static readonly Dictionary<string, OptimizationLevel> Levels = Enum.GetValues<OptimizationLevel>()
        .Where(one => one is not OptimizationLevel.Unknown)
        .ToDictionary(one => one.ToWord(), StringComparer.OrdinalIgnoreCase);

    private static readonly Dictionary<string, ClearType> Kinds = Enum.GetValues<ClearType>()
        .Where(one => one is not (ClearType.Unknown or ClearType.All))
        .ToDictionary(one => one.ToWord(), StringComparer.OrdinalIgnoreCase);

    public Task<ApiResponse<GetMemoryStatusResponse>> GetMemoryStatusAsync() => AnswerAsync(() => memory.GetMemoryStatusAsync());

    public Task<ApiResponse<GetMemoryStatusResponse>> GetMemoryStatusAsync(string deviceId) =>
        AnswerAsync(async () => await memory.GetMemoryStatusAsync(await names.DeviceAsync(deviceId)));

    public Task<ApiResponse<GetMemoryStatusDeviceResponse>> GetMemoryStatusDeviceAsync(string deviceId) =>
        AnswerAsync(async () => await memory.GetMemoryStatusDeviceAsync(await names.DeviceAsync(deviceId)));

    public Task<ApiResponse<GetMemoryUsageResponse>> GetMemoryUsageAsync() => AnswerAsync(() => memory.GetMemoryUsageAsync());

    public Task<ApiResponse<GetMemoryUsageResponse>> GetMemoryUsageAsync(string deviceId) =>
        AnswerAsync(async () => await memory.GetMemoryUsageAsync(await names.DeviceAsync(deviceId)));

    public Task<ApiResponse<GetMemoryAllocationsResponse>> GetMemoryAllocationsAsync() => AnswerAsync(() => AllocationsAsync(null));

    public Task<ApiResponse<GetMemoryAllocationsResponse>> GetMemoryAllocationsAsync(string deviceId) =>
        AnswerAsync(async () => await AllocationsAsync(await names.DeviceAsync(deviceId)));

    public Task<ApiResponse<GetMemoryAllocationResponse>> GetMemoryAllocationAsync(string allocationId) =>
        AnswerAsync(() => memory.GetMemoryAllocationAsync(allocationId));

    public Task<ApiResponse<PostMemoryAllocateResponse>> PostMemoryAllocateAsync(PostMemoryAllocateRequest request) =>
        AnswerAsync(() => AllocateAsync(request, null));

    public Task<ApiResponse<PostMemoryAllocateResponse>> PostMemoryAllocateAsync(PostMemoryAllocateRequest request, string deviceId) =>
        AnswerAsync(() => AllocateAsync(request, deviceId));

    public Task<ApiResponse<DeleteMemoryDeallocateResponse>> DeleteMemoryDeallocateAsync(DeleteMemoryDeallocateRequest request) =>
        AnswerAsync(() => memory.DeleteMemoryAllocationAsync(request.AllocationId, request.Force));

    public Task<ApiResponse<DeleteMemoryDeallocateResponse>> DeleteMemoryAllocationAsync(string allocationId) =>
        AnswerAsync(() => memory.DeleteMemoryAllocationAsync(allocationId));

    public Task<ApiResponse<PostMemoryTransferResponse>> PostMemoryTransferAsync(PostMemoryTransferRequest request) =>
        AnswerAsync(async () => await memory.PostMemoryTransferAsync(new()
        {
            SourceAllocationId = request.AllocationId ?? await OnlyOneAsync(request),
            DestinationDeviceId = await names.DeviceAsync(request.TargetDeviceId),
        }));

    public Task<ApiResponse<GetMemoryTransferResponse>> GetMemoryTransferAsync(string transferId) =>
        AnswerAsync(() => memory.GetMemoryTransferAsync(transferId));

    public Task<ApiResponse<PostMemoryCopyResponse>> PostMemoryCopyAsync(PostMemoryCopyRequest request) =>
        AnswerAsync(async () => await memory.PostMemoryCopyAsync(new()
        {
            SourceAllocationId = request.SourceId,
            DestinationDeviceId = await DestinationAsync(request.TargetId),
        }));

    public Task<ApiResponse<PostMemoryClearResponse>> PostMemoryClearAsync(PostMemoryClearRequest request) =>
        AnswerAsync(() => ClearAsync(request, null));

    public Task<ApiResponse<PostMemoryClearResponse>> PostMemoryClearAsync(PostMemoryClearRequest request, string deviceId) =>
        AnswerAsync(() => ClearAsync(request, deviceId));

    public Task<ApiResponse<PostMemoryOptimizeResponse>> PostMemoryOptimizeAsync(PostMemoryOptimizeRequest request) =>
        AnswerAsync(async () =>
        {
            var isLevel = Levels.TryGetValue(request.Target ?? string.Empty, out var level);
            var isAll = isLevel || string.Equals(request.Target, "all", StringComparison.OrdinalIgnoreCase);
            return await memory.PostMemoryOptimizeAsync(new()
            {
                DeviceId = isAll ? null : await names.DeviceAsync(request.Target),
                OptimizationLevel = isLevel ? level : OptimizationLevel.Conservative,
            });
        });

    public Task<ApiResponse<PostMemoryDefragmentResponse>> PostMemoryDefragmentAsync(PostMemoryDefragmentRequest request) =>
        AnswerAsync(() => DefragmentAsync(request, null));

    public Task<ApiResponse<PostMemoryDefragmentResponse>> PostMemoryDefragmentAsync(
        PostMemoryDefragmentRequest request, string deviceId) => AnswerAsync(() => DefragmentAsync(request, deviceId));

    public Task<ApiResponse<GetModelMemoryStatusResponse>> GetModelMemoryStatusAsync() =>
        AnswerAsync(() => memory.GetModelMemoryStatusAsync());

    public Task<ApiResponse<PostTriggerModelMemoryOptimizationResponse>> TriggerModelMemoryOptimizationAsync(
        PostTriggerModelMemoryOptimizationRequest request) => AnswerAsync(() => memory.TriggerModelMemoryOptimizationAsync(request));

    public Task<ApiResponse<GetMemoryPressureResponse>> GetMemoryPressureAsync() => AnswerAsync(() => memory.GetMemoryPressureAsync());

    public Task<ApiResponse<GetMemoryPressureResponse>> GetMemoryPressureAsync(string deviceId) =>
        AnswerAsync(async () => await memory.GetMemoryPressureAsync(await names.DeviceAsync(deviceId)));

    public Task<ApiResponse<GetMemoryAnalyticsResponse>> GetMemoryAnalyticsAsync() => AnswerAsync(() => memory.GetMemoryAnalyticsAsync());

    public Task<ApiResponse<GetMemoryOptimizationResponse>> GetMemoryOptimizationAsync() =>
        AnswerAsync(() => memory.GetMemoryOptimizationAsync());

    public Task<ApiResponse<LoadModelResult>> LoadModelAsync(LoadModelParams request) => AnswerAsync(() => memory.LoadModelAsync(request));

    public Task<ApiResponse<UnloadedModel>> UnloadModelAsync(UnloadModelParams request) =>
        AnswerAsync(() => memory.UnloadModelAsync(request));

    private static async Task<ApiResponse<T>> AnswerAsync<T>(Func<Task<T>> call)
    {
        try
        {
            return ApiResponse<T>.CreateSuccess(await call());
        }
        catch (Exception problem) when (ErrorDetails.Of(problem) is { } error)
        {
            return ApiResponse<T>.CreateError(error);
        }
    }

    private async Task<PostMemoryAllocateResponse> AllocateAsync(PostMemoryAllocateRequest request, string? deviceId)
    {
        var place = await names.PlaceAsync(request.MemoryType, deviceId);
        return await memory.PostMemoryAllocateAsync(new()
        {
            SizeBytes = request.SizeBytes,
            DeviceId = place.DeviceId,
            MemoryType = place.MemoryType,
        });
    }

    private async Task<PostMemoryClearResponse> ClearAsync(PostMemoryClearRequest request, string? deviceId)
    {
        var isOwn = Kinds.TryGetValue(request.MemoryType ?? string.Empty, out var what);
        return await memory.PostMemoryClearAsync(new()
        {
            DeviceId = await names.DevicesAsync(isOwn ? "all" : request.MemoryType, deviceId, mayContradict: false),
            ClearType = isOwn ? what : ClearType.All,
            Force = request.Force,
        });
    }

    private async Task<PostMemoryDefragmentResponse> DefragmentAsync(PostMemoryDefragmentRequest request, string? deviceId) =>
        await memory.PostMemoryDefragmentAsync(new()
        {
            DeviceId = await names.DevicesAsync(request.MemoryType, deviceId, mayContradict: true), // "GPU" is only what it is by default.
        });

    private async Task<GetMemoryAllocationsResponse> AllocationsAsync(string? deviceId)
    {
        var all = new List<AllocationRow>();
        string? after = null;
        do
        {
            var page = await memory.GetMemoryAllocationsAsync(new() { DeviceId = deviceId, Limit = PageSize, After = after });
            all.AddRange(page.Allocations);
            after = page.Next;
        }
        while (after is not null);
        return new() { Allocations = all };
    }

    private async Task<string> OnlyOneAsync(PostMemoryTransferRequest request)
    {
        var source = await names.DeviceAsync(request.SourceDeviceId);
        var found = (await AllocationsAsync(source)).Allocations.Where(one => one.SizeBytes == request.SizeBytes).ToList();
        return found.Count switch
        {
            1 => found[0].AllocationId,
            0 => throw new NotMappedException(
                $"no allocation on '{source}' has {request.SizeBytes} bytes: a transfer copies one whole allocation",
                "allocation_not_found",
                StatusCodes.Status404NotFound),
            _ => throw new NotMappedException(
                $"{found.Count} allocations on '{source}' have {request.SizeBytes} bytes: say which with AllocationId",
                statusCode: StatusCodes.Status409Conflict),
        };
    }

    private async Task<string> DestinationAsync(string targetId)
    {
        var device = await names.DeviceAsync(targetId);
        var isAllocation = (await AllocationsAsync(null)).Allocations.Any(one => one.AllocationId == device);
        return isAllocation
            ? throw new NotMappedException(
                $"TargetId '{targetId}' is an allocation, and a copy is always a new one: name a device, and free that allocation",
                "unsupported")
            : device;
    }
}

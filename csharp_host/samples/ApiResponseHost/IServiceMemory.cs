using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

namespace ApiResponseHost;

/// <summary>
/// The memory service as hosts know it whose answers are an <see cref="ApiResponse{T}"/>. What the worker refuses is
/// an answer, never an exception; only the caller's own cancellation is thrown.
/// </summary>
public interface IServiceMemory
{
    Task<ApiResponse<GetMemoryStatusResponse>> GetMemoryStatusAsync();

    Task<ApiResponse<GetMemoryStatusResponse>> GetMemoryStatusAsync(string deviceId);

    Task<ApiResponse<GetMemoryStatusDeviceResponse>> GetMemoryStatusDeviceAsync(string deviceId);

    Task<ApiResponse<GetMemoryUsageResponse>> GetMemoryUsageAsync();

    Task<ApiResponse<GetMemoryUsageResponse>> GetMemoryUsageAsync(string deviceId);

    /// <summary>All of them: pages are joined.</summary>
    Task<ApiResponse<GetMemoryAllocationsResponse>> GetMemoryAllocationsAsync();

    Task<ApiResponse<GetMemoryAllocationsResponse>> GetMemoryAllocationsAsync(string deviceId);

    Task<ApiResponse<GetMemoryAllocationResponse>> GetMemoryAllocationAsync(string allocationId);

    Task<ApiResponse<PostMemoryAllocateResponse>> PostMemoryAllocateAsync(PostMemoryAllocateRequest request);

    Task<ApiResponse<PostMemoryAllocateResponse>> PostMemoryAllocateAsync(PostMemoryAllocateRequest request, string deviceId);

    Task<ApiResponse<DeleteMemoryDeallocateResponse>> DeleteMemoryDeallocateAsync(DeleteMemoryDeallocateRequest request);

    Task<ApiResponse<DeleteMemoryDeallocateResponse>> DeleteMemoryAllocationAsync(string allocationId);

    Task<ApiResponse<PostMemoryTransferResponse>> PostMemoryTransferAsync(PostMemoryTransferRequest request);

    Task<ApiResponse<GetMemoryTransferResponse>> GetMemoryTransferAsync(string transferId);

    Task<ApiResponse<PostMemoryCopyResponse>> PostMemoryCopyAsync(PostMemoryCopyRequest request);

    Task<ApiResponse<PostMemoryClearResponse>> PostMemoryClearAsync(PostMemoryClearRequest request);

    Task<ApiResponse<PostMemoryClearResponse>> PostMemoryClearAsync(PostMemoryClearRequest request, string deviceId);

    Task<ApiResponse<PostMemoryOptimizeResponse>> PostMemoryOptimizeAsync(PostMemoryOptimizeRequest request);

    Task<ApiResponse<PostMemoryDefragmentResponse>> PostMemoryDefragmentAsync(PostMemoryDefragmentRequest request);

    Task<ApiResponse<PostMemoryDefragmentResponse>> PostMemoryDefragmentAsync(PostMemoryDefragmentRequest request, string deviceId);

    Task<ApiResponse<GetModelMemoryStatusResponse>> GetModelMemoryStatusAsync();

    Task<ApiResponse<PostTriggerModelMemoryOptimizationResponse>> TriggerModelMemoryOptimizationAsync(
        PostTriggerModelMemoryOptimizationRequest request);

    Task<ApiResponse<GetMemoryPressureResponse>> GetMemoryPressureAsync();

    Task<ApiResponse<GetMemoryPressureResponse>> GetMemoryPressureAsync(string deviceId);

    Task<ApiResponse<GetMemoryAnalyticsResponse>> GetMemoryAnalyticsAsync();

    Task<ApiResponse<GetMemoryOptimizationResponse>> GetMemoryOptimizationAsync();

    Task<ApiResponse<LoadModelResult>> LoadModelAsync(LoadModelParams request);

    Task<ApiResponse<UnloadedModel>> UnloadModelAsync(UnloadModelParams request);
}

using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

namespace Consumer;

/// <summary>What a user of the packages writes: images on the GPU while there is headroom, else on the CPU.</summary>
public sealed class ImageCache(IServiceMemory memory)
{
    public async Task<string> AddAsync(long sizeBytes)
    {
        try
        {
            return (await memory.PostMemoryAllocateAsync(new() { SizeBytes = sizeBytes, DeviceId = "cuda:0", Owner = "images" })).AllocationId;
        }
        catch (WorkerRequestException problem) when (problem.ErrorCode == ErrorCode.OutOfMemory)
        {
            return (await memory.PostMemoryAllocateAsync(new() { SizeBytes = sizeBytes, DeviceId = "cpu", Owner = "images" })).AllocationId;
        }
    }

    public async Task<string> DemoteAsync(string allocationId, IProgress<TransferProgress> progress)
    {
        var moved = await memory.PostMemoryTransferAsync(
            new() { SourceAllocationId = allocationId, DestinationDeviceId = "cpu", TransferType = TransferType.Move }, progress);
        return moved.DestinationAllocationId!;
    }
}

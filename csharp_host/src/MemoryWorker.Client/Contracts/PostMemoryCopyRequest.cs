using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>An allocation's contents to be copied to a new allocation, and waited for.</summary>
public sealed record PostMemoryCopyRequest
{
    /// <summary>Which allocation.</summary>
    public required string SourceAllocationId { get; init; }

    /// <summary>Where to.</summary>
    public required string DestinationDeviceId { get; init; }

    /// <summary>Of the new allocation.</summary>
    public MemoryType MemoryType { get; init; } = MemoryType.Device;

    /// <summary>Read the copy back and compare digests.</summary>
    public bool Verify { get; init; }

    internal PostMemoryTransferRequest ToTransfer() => new()
    {
        SourceAllocationId = SourceAllocationId,
        DestinationDeviceId = DestinationDeviceId,
        MemoryType = MemoryType,
        Verify = Verify,
    };
}

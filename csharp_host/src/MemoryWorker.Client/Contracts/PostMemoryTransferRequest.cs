using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>An allocation's contents to be copied or moved to a new allocation.</summary>
public sealed record PostMemoryTransferRequest
{
    /// <summary>Which allocation.</summary>
    public required string SourceAllocationId { get; init; }

    /// <summary>Where to.</summary>
    public required string DestinationDeviceId { get; init; }

    /// <summary>Whether the source stays.</summary>
    public TransferType TransferType { get; init; } = TransferType.Copy;

    /// <summary>Of the new allocation.</summary>
    public MemoryType MemoryType { get; init; } = MemoryType.Device;

    /// <summary>Read the copy back and compare digests.</summary>
    public bool Verify { get; init; }

    /// <summary>False answers at once; follow it with <see cref="IServiceMemory.GetMemoryTransferAsync"/>.</summary>
    public bool Wait { get; init; } = true;

    internal TransferParams ToWire() => new()
    {
        SourceAllocationId = SourceAllocationId,
        DestinationDeviceId = DestinationDeviceId,
        TransferType = TransferType,
        MemoryType = MemoryType,
        Verify = Verify,
        Wait = Wait,
    };
}

using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>How far a transfer has come.</summary>
/// <param name="CompletedBytes">Done.</param>
/// <param name="TotalBytes">To be done in all.</param>
public readonly record struct TransferProgress(long CompletedBytes, long TotalBytes)
{
    /// <summary>0 to 1.</summary>
    public double Fraction => TotalBytes == 0 ? 1 : (double)CompletedBytes / TotalBytes;
}

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

/// <summary>A transfer as it stands.</summary>
public abstract record MemoryTransferResponse
{
    private protected MemoryTransferResponse(TransferResult wire)
    {
        TransferId = wire.TransferId;
        State = wire.State;
        SourceAllocationId = wire.SourceAllocationId;
        DestinationAllocationId = wire.DestinationAllocationId;
        SourceDeviceId = wire.SourceDeviceId;
        DestinationDeviceId = wire.DestinationDeviceId;
        SizeBytes = wire.SizeBytes;
        CompletedBytes = wire.CompletedBytes;
        Duration = wire.DurationUs is { } duration ? TimeSpan.FromMicroseconds(duration) : null;
        BytesPerSecond = wire.BytesPerSecond;
        Checksum = wire.Checksum;
        SharedMemory = wire.SharedMemory;
        Error = wire.Error;
    }

    /// <summary>Its name.</summary>
    public string TransferId { get; }

    /// <summary>How far it has come.</summary>
    public TransferState State { get; }

    /// <summary>Whether it is complete.</summary>
    public bool Success => State == TransferState.Completed;

    /// <summary>The allocation it reads.</summary>
    public string SourceAllocationId { get; }

    /// <summary>The allocation it made; null until then.</summary>
    public string? DestinationAllocationId { get; }

    /// <summary>Where from.</summary>
    public string SourceDeviceId { get; }

    /// <summary>Where to.</summary>
    public string DestinationDeviceId { get; }

    /// <summary>Bytes in all.</summary>
    public long SizeBytes { get; }

    /// <summary>Bytes done.</summary>
    public long CompletedBytes { get; }

    /// <summary>What it took; null until it ended.</summary>
    public TimeSpan? Duration { get; }

    /// <summary>Its speed; null if unknown.</summary>
    public long? BytesPerSecond { get; }

    /// <summary><c>sha256:</c> and the digest, where it was verified.</summary>
    public string? Checksum { get; }

    /// <summary>The new allocation, where this process can map it.</summary>
    public SharedMemory? SharedMemory { get; }

    /// <summary>Why it failed, where it did.</summary>
    public ErrorBody? Error { get; }
}

/// <inheritdoc cref="MemoryTransferResponse"/>
public sealed record PostMemoryTransferResponse : MemoryTransferResponse
{
    internal PostMemoryTransferResponse(TransferResult wire)
        : base(wire)
    {
    }
}

/// <inheritdoc cref="MemoryTransferResponse"/>
public sealed record GetMemoryTransferResponse : MemoryTransferResponse
{
    internal GetMemoryTransferResponse(TransferResult wire)
        : base(wire)
    {
    }
}

/// <inheritdoc cref="MemoryTransferResponse"/>
public sealed record PostMemoryCopyResponse : MemoryTransferResponse
{
    internal PostMemoryCopyResponse(TransferResult wire)
        : base(wire)
    {
    }
}

using System.Text.Json.Serialization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

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
        UnknownWords = wire.UnknownWords;
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

    /// <summary>Text of each word that this library does not know, by its name on the wire; null where there is none.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyDictionary<string, string>? UnknownWords { get; }
}

using System.Diagnostics.CodeAnalysis;
using System.Text.Json.Serialization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>A transfer as it stands.</summary>
public abstract record MemoryTransferResponse
{
    private protected MemoryTransferResponse()
    {
    }

    [SetsRequiredMembers]
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
    public required string TransferId { get; init; }

    /// <summary>How far it has come.</summary>
    public required TransferState State { get; init; }

    /// <summary>Whether it is complete.</summary>
    public bool Success => State == TransferState.Completed;

    /// <summary>The allocation it reads.</summary>
    public required string SourceAllocationId { get; init; }

    /// <summary>The allocation it made; null until then.</summary>
    public string? DestinationAllocationId { get; init; }

    /// <summary>Where from.</summary>
    public required string SourceDeviceId { get; init; }

    /// <summary>Where to.</summary>
    public required string DestinationDeviceId { get; init; }

    /// <summary>Bytes in all.</summary>
    public required long SizeBytes { get; init; }

    /// <summary>Bytes done.</summary>
    public required long CompletedBytes { get; init; }

    /// <summary>What it took; null until it ended.</summary>
    public TimeSpan? Duration { get; init; }

    /// <summary>Its speed; null if unknown.</summary>
    public long? BytesPerSecond { get; init; }

    /// <summary><c>sha256:</c> and the digest, where it was verified.</summary>
    public string? Checksum { get; init; }

    /// <summary>The new allocation, where this process can map it.</summary>
    public SharedMemory? SharedMemory { get; init; }

    /// <summary>Why it failed, where it did.</summary>
    public ErrorBody? Error { get; init; }

    /// <summary>Text of each word that this library does not know, by its name on the wire; null where there is none.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyDictionary<string, string>? UnknownWords { get; init; }
}

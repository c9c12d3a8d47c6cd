using System.Text.Json.Serialization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Memory that was handed out.</summary>
public sealed record PostMemoryAllocateResponse
{
    /// <summary>Its name from now on.</summary>
    public required string AllocationId { get; init; }

    /// <summary>Always true: a refusal is a <see cref="WorkerRequestException"/>.</summary>
    public bool Success => true;

    /// <summary>Where it is.</summary>
    public required string DeviceId { get; init; }

    /// <summary>Where on the device.</summary>
    public required MemoryType MemoryType { get; init; }

    /// <summary>As asked for.</summary>
    public required long SizeBytes { get; init; }

    /// <summary>As the device rounds it.</summary>
    public required long ActualBytes { get; init; }

    /// <summary>What <see cref="SharedAllocation.Open(SharedMemory, System.IO.MemoryMappedFiles.MemoryMappedFileAccess)"/> maps; null where it can't be.</summary>
    public SharedMemory? SharedMemory { get; init; }

    /// <summary>What is left; null if unknown.</summary>
    public long? AvailableBytes { get; init; }

    /// <summary>Models that had to go.</summary>
    public IReadOnlyList<UnloadedModel> ModelsUnloaded { get; init; } = [];

    /// <summary>What consumers gave back for it, each with what came of that; empty from a worker that has none yet.</summary>
    public IReadOnlyList<ReleasedMemory> Released { get; init; } = [];

    /// <summary>Text of each word that this library does not know, by its name on the wire; null where there is none.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyDictionary<string, string>? UnknownWords { get; init; }

    internal static PostMemoryAllocateResponse From(AllocateResult wire) => new()
    {
        AllocationId = wire.AllocationId,
        DeviceId = wire.DeviceId,
        MemoryType = wire.MemoryType,
        SizeBytes = wire.SizeBytes,
        ActualBytes = wire.ActualBytes,
        SharedMemory = wire.SharedMemory,
        AvailableBytes = wire.AvailableBytes,
        ModelsUnloaded = wire.ModelsUnloaded,
        Released = wire.Released ?? [],
        UnknownWords = wire.UnknownWords,
    };
}

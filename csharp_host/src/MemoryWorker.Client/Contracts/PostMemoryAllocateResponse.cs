using System.Text.Json.Serialization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Memory that was handed out.</summary>
/// <param name="AllocationId">Its name from now on.</param>
/// <param name="Success">Always true: a refusal is a <see cref="WorkerRequestException"/>.</param>
/// <param name="DeviceId">Where it is.</param>
/// <param name="MemoryType">Where on the device.</param>
/// <param name="SizeBytes">As asked for.</param>
/// <param name="ActualBytes">As the device rounds it.</param>
/// <param name="SharedMemory">What <see cref="SharedAllocation.Open(SharedMemory, System.IO.MemoryMappedFiles.MemoryMappedFileAccess)"/> maps; null where it can't be.</param>
/// <param name="AvailableBytes">What is left; null if unknown.</param>
/// <param name="ModelsUnloaded">Models that had to go.</param>
public sealed record PostMemoryAllocateResponse(
    string AllocationId,
    bool Success,
    string DeviceId,
    MemoryType MemoryType,
    long SizeBytes,
    long ActualBytes,
    SharedMemory? SharedMemory,
    long? AvailableBytes,
    IReadOnlyList<UnloadedModel> ModelsUnloaded)
{
    /// <summary>Text of each word that this library does not know, by its name on the wire; null where there is none.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyDictionary<string, string>? UnknownWords { get; init; }

    internal static PostMemoryAllocateResponse From(AllocateResult wire) => new(
        wire.AllocationId,
        true,
        wire.DeviceId,
        wire.MemoryType,
        wire.SizeBytes,
        wire.ActualBytes,
        wire.SharedMemory,
        wire.AvailableBytes,
        wire.ModelsUnloaded) { UnknownWords = wire.UnknownWords };
}

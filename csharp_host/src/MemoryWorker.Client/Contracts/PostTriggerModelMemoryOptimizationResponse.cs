using System.Text.Json.Serialization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Which models went, which stayed, and whether the goal was met.</summary>
/// <param name="OptimizationTriggered">False where there was nothing to do.</param>
/// <param name="OptimizationStrategy">As used.</param>
/// <param name="MemoryFreed">Bytes, by the worker's ledger.</param>
/// <param name="MemoryReturned">Bytes, as the system measured them; null if unknown.</param>
/// <param name="ModelsUnloaded">Each with its figures and the reason.</param>
/// <param name="ModelsKept">Each with the reason.</param>
/// <param name="PerformanceImpact">What it will cost when they are needed again.</param>
/// <param name="OptimizationTimeMs">What it took.</param>
/// <param name="PressureBefore">The level before.</param>
/// <param name="PressureAfter">The level after.</param>
/// <param name="GoalMet">Whether the goal was met.</param>
/// <param name="Message">The same in a sentence.</param>
public sealed record PostTriggerModelMemoryOptimizationResponse(
    bool OptimizationTriggered,
    EvictionStrategy OptimizationStrategy,
    long MemoryFreed,
    long? MemoryReturned,
    IReadOnlyList<UnloadedModel> ModelsUnloaded,
    IReadOnlyList<KeptModel> ModelsKept,
    PerformanceImpact PerformanceImpact,
    long OptimizationTimeMs,
    PressureLevel PressureBefore,
    PressureLevel PressureAfter,
    bool GoalMet,
    string Message)
{
    /// <summary>Text of each word that this library does not know, by its name on the wire; null where there is none.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyDictionary<string, string>? UnknownWords { get; init; }

    internal static PostTriggerModelMemoryOptimizationResponse From(ModelOptimizeResult wire) => new(
        wire.OptimizationTriggered,
        wire.OptimizationStrategy,
        wire.MemoryFreedBytes,
        wire.MemoryReturnedBytes,
        wire.ModelsUnloaded,
        wire.ModelsKept,
        wire.PerformanceImpact,
        wire.OptimizationTimeMs,
        wire.PressureBefore,
        wire.PressureAfter,
        wire.GoalMet,
        wire.Message) { UnknownWords = wire.UnknownWords };
}

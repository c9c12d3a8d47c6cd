using System.Text.Json.Serialization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Which models went, which stayed, and whether the goal was met.</summary>
public sealed record PostTriggerModelMemoryOptimizationResponse
{
    /// <summary>False where there was nothing to do.</summary>
    public required bool OptimizationTriggered { get; init; }

    /// <summary>As used.</summary>
    public required EvictionStrategy OptimizationStrategy { get; init; }

    /// <summary>Bytes, by the worker's ledger.</summary>
    public required long MemoryFreed { get; init; }

    /// <summary>Bytes, as the system measured them; null if unknown.</summary>
    public long? MemoryReturned { get; init; }

    /// <summary>Each with its figures and the reason.</summary>
    public IReadOnlyList<UnloadedModel> ModelsUnloaded { get; init; } = [];

    /// <summary>Each with the reason.</summary>
    public IReadOnlyList<KeptModel> ModelsKept { get; init; } = [];

    /// <summary>What it will cost when they are needed again.</summary>
    public required PerformanceImpact PerformanceImpact { get; init; }

    /// <summary>What it took.</summary>
    public required TimeSpan OptimizationTime { get; init; }

    /// <summary>The level before.</summary>
    public required PressureCategory PressureBefore { get; init; }

    /// <summary>The level after.</summary>
    public required PressureCategory PressureAfter { get; init; }

    /// <summary>Whether the goal was met.</summary>
    public required bool GoalMet { get; init; }

    /// <summary>The same in a sentence.</summary>
    public required string Message { get; init; }

    /// <summary>Text of each word that this library does not know, by its name on the wire; null where there is none.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyDictionary<string, string>? UnknownWords { get; init; }

    internal static PostTriggerModelMemoryOptimizationResponse From(ModelOptimizeResult wire) => new()
    {
        OptimizationTriggered = wire.OptimizationTriggered,
        OptimizationStrategy = wire.OptimizationStrategy,
        MemoryFreed = wire.MemoryFreedBytes,
        MemoryReturned = wire.MemoryReturnedBytes,
        ModelsUnloaded = wire.ModelsUnloaded,
        ModelsKept = wire.ModelsKept,
        PerformanceImpact = wire.PerformanceImpact,
        OptimizationTime = TimeSpan.FromMilliseconds(wire.OptimizationTimeMs),
        PressureBefore = wire.PressureBefore,
        PressureAfter = wire.PressureAfter,
        GoalMet = wire.GoalMet,
        Message = wire.Message,
        UnknownWords = wire.UnknownWords,
    };
}

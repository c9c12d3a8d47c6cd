using System.Globalization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>The configured models and where they are.</summary>
/// <param name="PressureLevel">0–100; null if unknown.</param>
/// <param name="PressureCategory">The same in a word; null if unknown.</param>
/// <param name="Models">Every configured model.</param>
/// <param name="AvailableOperations">What can be asked for now.</param>
/// <param name="OptimizationRecommendations">What would help.</param>
/// <param name="LastSynchronized">When the figures were true.</param>
public sealed record GetModelMemoryStatusResponse(
    double? PressureLevel,
    PressureCategory? PressureCategory,
    IReadOnlyList<ModelStatus> Models,
    IReadOnlyList<string> AvailableOperations,
    IReadOnlyList<Recommendation> OptimizationRecommendations,
    DateTimeOffset LastSynchronized)
{
    internal static GetModelMemoryStatusResponse From(GetModelStatusResult wire) => new(
        wire.PressurePercentage,
        GetMemoryPressureResponse.Category(wire.PressureLevel),
        wire.Models,
        wire.AvailableOperations,
        wire.OptimizationRecommendations,
        DateTimeOffset.Parse(wire.LastSynchronized, CultureInfo.InvariantCulture, DateTimeStyles.AssumeUniversal));
}

/// <summary>Which models to unload, and until when.</summary>
public sealed record PostTriggerModelMemoryOptimizationRequest
{
    /// <summary>Only on this device.</summary>
    public string? DeviceId { get; init; }

    /// <summary>A level, or a percentage up to 100, to come down to.</summary>
    public PressureTarget? TargetPressureLevel { get; init; }

    /// <summary>Which model goes first.</summary>
    public EvictionStrategy Strategy { get; init; } = EvictionStrategy.Adaptive;

    /// <summary>Null for no limit.</summary>
    public long? MaxModelsToUnload { get; init; }

    /// <summary>Bytes.</summary>
    public long? MinMemoryToFree { get; init; }

    /// <summary>Also where the goal is met already.</summary>
    public bool ForceOptimization { get; init; }

    /// <summary>Models that stay.</summary>
    public IReadOnlyList<string> ExcludeModels { get; init; } = [];

    /// <summary>Null for no limit.</summary>
    public long? MaxOptimizationTimeMs { get; init; }

    /// <summary>Only say what would be done.</summary>
    public bool DryRun { get; init; }

    internal ModelOptimizeParams ToWire() => new()
    {
        DeviceId = DeviceId,
        TargetPressureLevel = TargetPressureLevel,
        Strategy = Strategy,
        MaxModelsToUnload = MaxModelsToUnload,
        MinMemoryToFreeBytes = MinMemoryToFree,
        ForceOptimization = ForceOptimization,
        ExcludeModels = ExcludeModels,
        MaxOptimizationTimeMs = MaxOptimizationTimeMs,
        DryRun = DryRun,
    };
}

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
        wire.Message);
}

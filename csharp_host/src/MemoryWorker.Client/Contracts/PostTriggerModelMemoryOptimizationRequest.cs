using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

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
    public TimeSpan? MaxOptimizationTime { get; init; }

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
        MaxOptimizationTimeMs = MaxOptimizationTime is { } time ? (long)time.TotalMilliseconds : null,
        DryRun = DryRun,
    };
}

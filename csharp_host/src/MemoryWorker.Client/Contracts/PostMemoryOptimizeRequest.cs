using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Recommended actions to be carried out, up to a level.</summary>
public sealed record PostMemoryOptimizeRequest
{
    /// <summary>Null for all devices.</summary>
    public string? DeviceId { get; init; }

    /// <summary>How far to go.</summary>
    public OptimizationLevel OptimizationLevel { get; init; } = OptimizationLevel.Conservative;

    /// <summary>Only say what would be done.</summary>
    public bool DryRun { get; init; }

    internal OptimizeParams ToWire() =>
        new() { DeviceId = DeviceId, OptimizationLevel = OptimizationLevel, DryRun = DryRun };
}

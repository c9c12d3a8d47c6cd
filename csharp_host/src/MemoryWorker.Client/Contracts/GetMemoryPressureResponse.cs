using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>How close memory is to running out: the device asked for, or the one that is worst off.</summary>
public sealed record GetMemoryPressureResponse
{
    /// <summary>The device that the figures belong to; null where there is none.</summary>
    public string? DeviceId { get; init; }

    /// <summary>0–100: the share of the budget that is not to be had any more; null if unknown.</summary>
    public double? PressureLevel { get; init; }

    /// <summary>The same in a word; unknown where there is no device.</summary>
    public PressureCategory PressureCategory { get; init; }

    /// <summary>Bytes; null if unknown.</summary>
    public long? AvailableMemory { get; init; }

    /// <summary>Bytes; null if unknown.</summary>
    public long? TotalMemory { get; init; }

    /// <summary>0–100, of the whole device and every process; null if unknown.</summary>
    public double? UtilizationPercentage { get; init; }

    /// <summary>Percentages at which a device becomes moderate, high and critical; null where there is no device.</summary>
    public PressureThresholds? Thresholds { get; init; }

    /// <summary>What would help, each of which can be sent as it stands.</summary>
    public IReadOnlyList<Recommendation> RecommendedActions { get; init; } = [];

    /// <summary>If it goes on as it does: time to the critical threshold, zero beyond it; null where nothing grows.</summary>
    public TimeSpan? TimeToCritical { get; init; }

    /// <summary>The worst of all devices that were asked for.</summary>
    public PressureCategory WorstCategory { get; init; }

    /// <summary>Everything that was said, device by device, with signals and trends.</summary>
    public IReadOnlyList<DevicePressure> Devices { get; init; } = [];

    internal static GetMemoryPressureResponse From(GetPressureResult wire)
    {
        var worst = wire.Devices
            .OrderByDescending(one => one.PressureCategory)
            .ThenByDescending(one => one.PressurePercentage ?? -1)
            .FirstOrDefault();
        return new GetMemoryPressureResponse
        {
            DeviceId = worst?.DeviceId,
            PressureLevel = worst?.PressurePercentage,
            PressureCategory = worst?.PressureCategory ?? PressureCategory.Unknown,
            AvailableMemory = worst?.AvailableMemoryBytes,
            TotalMemory = worst?.TotalMemoryBytes,
            UtilizationPercentage = worst?.UtilizationPercentage,
            Thresholds = worst?.Thresholds,
            RecommendedActions = worst?.RecommendedActions ?? [],
            TimeToCritical = worst is null ? null : ToCritical(worst),
            WorstCategory = wire.PressureCategory,
            Devices = wire.Devices,
        };
    }

    private static TimeSpan? ToCritical(DevicePressure device)
    {
        if (device is not { PressurePercentage: { } now, Trend.SecondsToExhaustion: { } exhaustion })
        {
            return null;
        }

        var part = now >= device.Thresholds.Critical ? 0 : (device.Thresholds.Critical - now) / (100 - now);
        var seconds = exhaustion * part;
        return seconds < TimeSpan.MaxValue.TotalSeconds ? TimeSpan.FromSeconds(seconds) : null;
    }
}

using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>How close memory is to running out: the device asked for, or the one that is worst off.</summary>
public sealed record GetMemoryPressureResponse
{
    /// <summary>The device that the figures belong to; null where there is none.</summary>
    public required string? DeviceId { get; init; }

    /// <summary>0–100: the share of the budget that is not to be had any more; null if unknown.</summary>
    public required double? PressureLevel { get; init; }

    /// <summary>The same in a word; null if unknown.</summary>
    public required PressureCategory? PressureCategory { get; init; }

    /// <summary>Bytes; null if unknown.</summary>
    public required long? AvailableMemory { get; init; }

    /// <summary>Bytes; null if unknown.</summary>
    public required long? TotalMemory { get; init; }

    /// <summary>0–100, of the whole device and every process; null if unknown.</summary>
    public required double? UtilizationPercentage { get; init; }

    /// <summary>Percentages at which a device becomes moderate, high and critical; null where there is no device.</summary>
    public required PressureThresholds? Thresholds { get; init; }

    /// <summary>What would help, each of which can be sent as it stands.</summary>
    public required IReadOnlyList<Recommendation> RecommendedActions { get; init; }

    /// <summary>If it goes on as it does: time to the critical threshold, zero beyond it; null where nothing grows.</summary>
    public required TimeSpan? TimeToCritical { get; init; }

    /// <summary>The worst of all devices that were asked for.</summary>
    public required PressureCategory? WorstCategory { get; init; }

    /// <summary>Everything that was said, device by device, with signals and trends.</summary>
    public required IReadOnlyList<DevicePressure> Devices { get; init; }

    internal static GetMemoryPressureResponse From(GetPressureResult wire)
    {
        var worst = wire.Devices
            .OrderByDescending(one => Category(one.PressureLevel) is { } category ? (int)category : -1)
            .ThenByDescending(one => one.PressurePercentage ?? -1)
            .FirstOrDefault();
        return new GetMemoryPressureResponse
        {
            DeviceId = worst?.DeviceId,
            PressureLevel = worst?.PressurePercentage,
            PressureCategory = worst is null ? null : Category(worst.PressureLevel),
            AvailableMemory = worst?.AvailableMemoryBytes,
            TotalMemory = worst?.TotalMemoryBytes,
            UtilizationPercentage = worst?.UtilizationPercentage,
            Thresholds = worst?.Thresholds,
            RecommendedActions = worst?.RecommendedActions ?? [],
            TimeToCritical = worst is null ? null : ToCritical(worst),
            WorstCategory = Category(wire.PressureLevel),
            Devices = wire.Devices,
        };
    }

    internal static PressureCategory? Category(PressureLevel level) => level switch
    {
        Protocol.PressureLevel.Low => Client.PressureCategory.Low,
        Protocol.PressureLevel.Moderate => Client.PressureCategory.Moderate,
        Protocol.PressureLevel.High => Client.PressureCategory.High,
        Protocol.PressureLevel.Critical => Client.PressureCategory.Critical,
        _ => null,
    };

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

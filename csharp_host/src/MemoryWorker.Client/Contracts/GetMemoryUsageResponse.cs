using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Allocated bytes by owner, purpose or memory type.</summary>
public sealed record GetMemoryUsageResponse
{
    /// <summary>Each device's groups.</summary>
    public IReadOnlyList<DeviceUsage> Devices { get; init; } = [];

    internal static GetMemoryUsageResponse From(GetUsageResult wire) => new()
    {
        Devices = wire.Devices,
    };
}

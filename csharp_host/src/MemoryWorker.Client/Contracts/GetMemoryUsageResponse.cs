using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Allocated bytes by owner, purpose or memory type.</summary>
/// <param name="Devices">Each device's groups.</param>
public sealed record GetMemoryUsageResponse(IReadOnlyList<DeviceUsage> Devices)
{
    internal static GetMemoryUsageResponse From(GetUsageResult wire) => new(wire.Devices);
}

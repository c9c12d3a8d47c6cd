using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Where the memory of one device is. Sizes are bytes; what is not known is null.</summary>
/// <param name="Device">The device's figures, and whose they are.</param>
/// <param name="Host">The machine's own memory.</param>
/// <param name="AgeMs">Age of the reading.</param>
public sealed record GetMemoryStatusDeviceResponse(DeviceStatus Device, HostStatus Host, long AgeMs);

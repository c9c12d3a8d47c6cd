using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Where the memory of one device is. Sizes are bytes; what is not known is null.</summary>
public sealed record GetMemoryStatusDeviceResponse
{
    /// <summary>The device's figures, and whose they are.</summary>
    public required DeviceStatus Device { get; init; }

    /// <summary>The machine's own memory.</summary>
    public required HostStatus Host { get; init; }

    /// <summary>Age of the reading.</summary>
    public required TimeSpan Age { get; init; }
}

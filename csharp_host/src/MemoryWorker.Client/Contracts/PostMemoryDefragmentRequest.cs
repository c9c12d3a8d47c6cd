using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Free memory to be joined into larger blocks.</summary>
public sealed record PostMemoryDefragmentRequest
{
    /// <summary>Null for all devices.</summary>
    public string? DeviceId { get; init; }

    /// <summary>May restart the device's own process; its contents are carried over.</summary>
    public bool Aggressive { get; init; }

    internal DefragmentParams ToWire() => new() { DeviceId = DeviceId, Aggressive = Aggressive };
}

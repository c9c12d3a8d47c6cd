using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Caches, allocations or models to be given up.</summary>
public sealed record PostMemoryClearRequest
{
    /// <summary>Null for all devices.</summary>
    public string? DeviceId { get; init; }

    /// <summary>What is given up.</summary>
    public ClearType ClearType { get; init; } = ClearType.Cache;

    /// <summary>Only this owner's allocations.</summary>
    public string? Owner { get; init; }

    /// <summary>Also what is persistent or pinned. What is in use always stays.</summary>
    public bool Force { get; init; }

    internal ClearParams ToWire() => new() { DeviceId = DeviceId, ClearType = ClearType, Owner = Owner, Force = Force };
}

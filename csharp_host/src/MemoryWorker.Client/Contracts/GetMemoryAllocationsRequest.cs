using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Which allocations to list, oldest first, a page at a time.</summary>
public sealed record GetMemoryAllocationsRequest
{
    /// <summary>Only on this device.</summary>
    public string? DeviceId { get; init; }

    /// <summary>Only this owner's.</summary>
    public string? Owner { get; init; }

    /// <summary>Only for this purpose.</summary>
    public string? Purpose { get; init; }

    /// <summary>Most on a page, 1 to 10,000.</summary>
    public int Limit { get; init; } = 100;

    /// <summary>The <see cref="GetMemoryAllocationsResponse.Next"/> of the page before.</summary>
    public string? After { get; init; }

    internal GetAllocationsParams ToWire() =>
        new() { DeviceId = DeviceId, Owner = Owner, Purpose = Purpose, Limit = Limit, After = After };
}

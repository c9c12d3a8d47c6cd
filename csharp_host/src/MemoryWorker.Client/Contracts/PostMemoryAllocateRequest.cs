using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Memory to be handed out. All or nothing: a failed allocate changes no figure.</summary>
public sealed record PostMemoryAllocateRequest
{
    /// <summary>Bytes, at least 1.</summary>
    public required long SizeBytes { get; init; }

    /// <summary>Where it is to lie; <see cref="MemoryType.Shared"/> can be mapped by this process.</summary>
    public MemoryType MemoryType { get; init; } = MemoryType.Device;

    /// <summary>Null for the worker's default device.</summary>
    public string? DeviceId { get; init; }

    /// <summary>What its bytes are at first.</summary>
    public Initialize Initialize { get; init; } = Initialize.Zero;

    /// <summary>Bytes, a power of two; null for the device's own.</summary>
    public long? Alignment { get; init; }

    /// <summary>What it is for.</summary>
    public string? Purpose { get; init; }

    /// <summary>Who asks.</summary>
    public string? Owner { get; init; }

    /// <summary>Stays when memory is cleared, unless forced.</summary>
    public bool Persistent { get; init; }

    /// <summary>It is freed when this runs out, at least 1 ms; null for never.</summary>
    public TimeSpan? Lease { get; init; }

    /// <summary>Models may be unloaded to make it fit.</summary>
    public bool MakeRoom { get; init; }

    /// <summary>The <see cref="PlanResult.PlanId"/> of a plan for so many bytes, carried out as it was answered; null for none.</summary>
    public string? PlanId { get; init; }

    internal AllocateParams ToWire()
    {
        var wire = new AllocateParams
        {
            SizeBytes = SizeBytes,
            MemoryType = MemoryType,
            DeviceId = DeviceId,
            Initialize = Initialize,
            Alignment = Alignment,
            Purpose = Purpose,
            Owner = Owner,
            Persistent = Persistent,
            LeaseMs = Lease is { } lease ? (long)lease.TotalMilliseconds : null,
            MakeRoom = MakeRoom,
        };
        return PlanId is null ? wire : wire with { PlanId = PlanId }; // An older worker knows no such field.
    }
}

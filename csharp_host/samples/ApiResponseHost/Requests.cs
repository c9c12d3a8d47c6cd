namespace ApiResponseHost;

/// <summary>Memory to be handed out.</summary>
public sealed record PostMemoryAllocateRequest
{
    public long SizeBytes { get; set; }

    /// <summary>"GPU": the default accelerator; "VRAM": memory of the device; "RAM": host memory; or a word of the protocol.</summary>
    public string MemoryType { get; set; } = "GPU";
}

/// <summary>One allocation to be given back.</summary>
public sealed record DeleteMemoryDeallocateRequest
{
    public string AllocationId { get; set; } = string.Empty;

    public bool Force { get; set; }
}

/// <summary>The one allocation of so many bytes on a device, to be copied to another device.</summary>
public sealed record PostMemoryTransferRequest
{
    public string SourceDeviceId { get; set; } = string.Empty;

    public string TargetDeviceId { get; set; } = string.Empty;

    public long SizeBytes { get; set; }

    /// <summary>Which allocation, where several have that size.</summary>
    public string? AllocationId { get; set; }
}

/// <summary>An allocation to be copied.</summary>
public sealed record PostMemoryCopyRequest
{
    /// <summary>An allocation.</summary>
    public string SourceId { get; set; } = string.Empty;

    /// <summary>A device: a copy is always a new allocation.</summary>
    public string TargetId { get; set; } = string.Empty;
}

/// <summary>Everything on some devices to be given up.</summary>
public sealed record PostMemoryClearRequest
{
    /// <summary>"all", "GPU", "VRAM" or "RAM": everything there; or what the protocol knows: "cache", "allocations", "models".</summary>
    public string MemoryType { get; set; } = "all";

    /// <summary>Also what is persistent or pinned.</summary>
    public bool Force { get; set; }
}

/// <summary>What is worth doing, to be done.</summary>
public sealed record PostMemoryOptimizeRequest
{
    /// <summary>"all", "GPU", "RAM" or a device, gently; or how far to go everywhere: "conservative", "normal", "aggressive".</summary>
    public string Target { get; set; } = "all";
}

/// <summary>Free memory to be joined.</summary>
public sealed record PostMemoryDefragmentRequest
{
    /// <summary>"GPU", "RAM" or "all".</summary>
    public string MemoryType { get; set; } = "GPU";
}

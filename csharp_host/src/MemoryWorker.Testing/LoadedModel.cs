namespace MemoryWorker.Testing;

/// <summary>A model that is loaded.</summary>
internal sealed class LoadedModel
{
    public required FakeModel Model { get; init; }

    public required FakeDevice Device { get; init; }

    public bool Pinned { get; set; }

    /// <summary>Counts up over all models: the lowest was used longest ago.</summary>
    public long LastUse { get; set; }

    public long Uses { get; set; }

    /// <summary>The clock's timestamp of the last use.</summary>
    public long UsedAt { get; set; }
}

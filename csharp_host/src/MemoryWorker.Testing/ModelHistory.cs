namespace MemoryWorker.Testing;

/// <summary>What is remembered of a model while it is not loaded, too.</summary>
internal sealed class ModelHistory
{
    public long Loads { get; set; }

    public long Uses { get; set; }

    /// <summary>How long it stays after its last use, ten minutes where nothing else is said; null for until it is evicted.</summary>
    public long? KeepAliveMs { get; set; } = 600_000;
}

namespace MemoryWorker.Hosting;

/// <summary>What a <see cref="MemoryCacheConsumer"/> says of its cache.</summary>
public sealed record MemoryCacheConsumerOptions
{
    /// <summary>What making one average entry again takes: the cache's price. The worker learns from hits and misses how likely that is.</summary>
    public required TimeSpan RebuildTime { get; set; }

    /// <summary>Bytes that stay, whatever is asked for.</summary>
    public long FloorBytes { get; set; }

    /// <summary>Free text that it is listed with.</summary>
    public string Kind { get; set; } = "memory_cache";

    /// <summary>
    /// Collect garbage after a release, blocking and compacting, so that the bytes leave the process: without it they stay in
    /// its heap, and the worker counts none of them. All threads stand still meanwhile.
    /// </summary>
    public bool CollectGarbage { get; set; } = true;
}

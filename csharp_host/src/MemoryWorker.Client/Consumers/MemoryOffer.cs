namespace MemoryWorker.Client;

/// <summary>Memory that a consumer would give back.</summary>
/// <param name="Bytes">How much, at least 1.</param>
/// <param name="Cost">What rebuilding it takes if it is needed again.</param>
public readonly record struct MemoryOffer(long Bytes, TimeSpan Cost);

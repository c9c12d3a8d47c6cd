namespace MemoryWorker.Client;

/// <summary>Memory that a consumer would give back.</summary>
/// <param name="Bytes">How much; an offer of 0 is none.</param>
/// <param name="Cost">What rebuilding it takes if it is needed again.</param>
public readonly record struct MemoryOffer(long Bytes, TimeSpan Cost);

namespace MemoryWorker.Testing;

/// <summary>An entry of a store: a value, or bytes.</summary>
internal sealed class HeldEntry
{
    /// <summary>What the worker keeps about an entry beside its content, its key and its tags.</summary>
    public const long BesideBytes = 128;

    public required string Key { get; init; }

    public required StoredContent Content { get; init; }

    public required long EntryBytes { get; init; }

    public required long MadeAt { get; init; }

    public required double CostMs { get; init; }

    public required IReadOnlyList<string> Tags { get; init; }

    /// <summary>Null where the kind of store keeps none.</summary>
    public required StoredVector? Vector { get; init; }

    /// <summary>Null for one that does not end by itself.</summary>
    public Lease? Lease { get; set; }

    /// <summary>Counts up over all uses of a store: the lowest was used longest ago.</summary>
    public long LastUse { get; set; }
}

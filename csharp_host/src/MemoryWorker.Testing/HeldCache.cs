using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>What can be made again. What that takes the least time for by the byte goes first, however often it was used.</summary>
internal sealed class HeldCache(string name, TimeProvider clock) : HeldStore(name, StoreKind.Cache, clock)
{
    public override bool IsPriced => true;

    public override StoreOptions Resolved(StoreOptions given) => base.Resolved(given.Preset switch
    {
        StorePreset.Responses => given with { Preset = null, MaxEntries = given.MaxEntries ?? 50, TtlMs = given.TtlMs ?? 300_000 },
        StorePreset.Rag => given with { Preset = null, MaxEntries = given.MaxEntries ?? 100, TtlMs = given.TtlMs ?? 180_000 },
        StorePreset.Results => given with { Preset = null, Persist = given.Persist ?? true },
        _ => given,
    });

    public override IEnumerable<HeldEntry> Cheapest() => Entries.Values
        .OrderBy(one => one.CostMs / one.EntryBytes)
        .ThenBy(one => one.EntryBytes)
        .ThenBy(one => one.Key, StringComparer.Ordinal)
        .ToList();
}

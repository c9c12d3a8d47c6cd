using System.Text;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>What one scope keeps under one name: entries by key, bounded in bytes, each for its time.</summary>
internal abstract class HeldStore(string name, StoreKind kind, TimeProvider clock)
{
    protected const long MiB = 1 << 20;

    private long _uses;

    public string Name => name;

    public StoreKind Kind => kind;

    /// <summary>There again after the worker that kept it was killed.</summary>
    public bool IsLasting { get; init; }

    public long LimitBytes => Options.MaxBytes ?? DefaultBytes;

    public long HeldBytes => Entries.Values.Sum(one => one.EntryBytes);

    /// <summary>What of it can be made again, and may be given up for a price.</summary>
    public virtual bool IsPriced => false;

    public int Count => Entries.Count;

    protected StoreOptions Options { get; private set; } = new();

    protected Dictionary<string, HeldEntry> Entries { get; private set; } = [];

    protected long Hits { get; set; }

    protected long Misses { get; set; }

    protected virtual long DefaultBytes => 256 * MiB;

    protected virtual long? DefaultEntries => null;

    protected virtual long? DefaultTtlMs => null;

    protected long? MaxEntries => Options.MaxEntries ?? DefaultEntries;

    private double SavedMs { get; set; }

    private long Evictions { get; set; }

    /// <summary>Takes over the options that are given; what is above a lower bound goes.</summary>
    public virtual void Configure(StoreOptions given)
    {
        if (given.Persist is { } persist && persist != IsLasting)
        {
            throw InMemoryLedger.Invalid(
                StoreActions.Open, "data.options.persist", "a store that is open stays where it is: close it first");
        }

        TakeOver(given);
    }

    /// <summary>Options as they hold: a preset's, and over them those that are given beside it.</summary>
    /// <exception cref="Client.WorkerRequestException">The kind has no such option.</exception>
    public virtual StoreOptions Resolved(StoreOptions given)
    {
        Refuse("preset", given.Preset is not null);
        Refuse("dimensions", given.Dimensions is not null);
        Refuse("metric", given.Metric is not null);
        return given;
    }

    /// <summary>Takes over options, and what there is of one that was kept.</summary>
    public void TakeOver(StoreOptions given, HeldStore? kept = null)
    {
        if (kept is not null)
        {
            (Options, Entries) = (kept.Options, kept.Entries);
        }

        Options = Over(given, Options);
        Evict(Victims(0, null));
    }

    /// <summary>Refuses an entry that is larger than the store may be.</summary>
    public void Check(long bytes)
    {
        if (bytes > LimitBytes)
        {
            throw InMemoryLedger.Refused(
                ErrorCode.LimitExceeded,
                StoreActions.Put,
                $"the entry takes {bytes} bytes, and the store may hold {LimitBytes}: open it with a larger max_bytes",
                new Dictionary<string, object?> { ["entry_bytes"] = bytes, ["limit_bytes"] = LimitBytes });
        }
    }

    public virtual StorePutResult Put(StorePutParams asked, StoredContent content)
    {
        var vector = Vector(asked.Vector);
        if (asked.Tokens is not null)
        {
            throw InMemoryLedger.Invalid(StoreActions.Put, "data.tokens", $"a store of kind {Kind.ToWord()} keeps none");
        }

        var bytes = content.Data.Length + HeldEntry.BesideBytes + (vector?.BesideBytes ?? 0)
            + Encoding.UTF8.GetByteCount(asked.Key) + asked.Tags.Sum(one => 2L + Encoding.UTF8.GetByteCount(one));
        Check(bytes);
        var old = Entries.GetValueOrDefault(asked.Key);
        if (Refusal(bytes, old) is { } reason)
        {
            return new() { Stored = false, Reason = reason, EntryBytes = bytes, EvictedEntries = 0 };
        }

        var victims = Victims(bytes, old);
        Evict(victims);
        Entries[asked.Key] = new()
        {
            Key = asked.Key,
            Content = content,
            EntryBytes = bytes,
            MadeAt = clock.GetTimestamp(),
            CostMs = asked.CostMs ?? 0,
            Tags = asked.Tags,
            Vector = vector,
            Lease = Lease.Of(clock, asked.TtlMs ?? Options.TtlMs ?? DefaultTtlMs),
            LastUse = ++_uses,
        };
        return new() { Stored = true, Reason = null, EntryBytes = bytes, EvictedEntries = victims.Count };
    }

    /// <summary>Notes a use, and returns the entry with its age.</summary>
    public (HeldEntry Entry, long AgeMs)? Get(string key)
    {
        if (!Entries.TryGetValue(key, out var entry))
        {
            Misses++;
            return null;
        }

        Hits++;
        SavedMs += entry.CostMs;
        entry.LastUse = ++_uses;
        Used(entry);
        return (entry, AgeMs(entry));
    }

    /// <summary>Returns the nearest, with how near each is.</summary>
    public virtual IReadOnlyList<(HeldEntry Entry, double Score)> Search(StoreSearchParams asked) => throw NotSearched(
        $"a store of kind {Kind.ToWord()} is not searched: it has keys, tags and prefixes; those of kinds vectors and documents are, by a vector, "
        + "those of kinds preferences and documents, by a text, and those of kind kv, by tokens");

    /// <summary>Entries as a text for a model's prompt; null where the kind has none.</summary>
    public virtual string? Prompt(IEnumerable<HeldEntry> entries) => null;

    public StoreListResult List(string? after, int limit)
    {
        var found = Entries.Values
            .Where(one => after is null || string.CompareOrdinal(one.Key, after) > 0)
            .OrderBy(one => one.Key, StringComparer.Ordinal)
            .Take(limit + 1)
            .ToList();
        var page = found.Take(limit).ToList();
        return new()
        {
            Entries = [.. page.Select(Row)],
            Next = found.Count > limit ? page[^1].Key : null,
            Prompt = Prompt(page),
        };
    }

    public StoreDeleteResult Delete(StoreDeleteParams asked)
    {
        var going = Entries.Values
            .Where(one => asked.Key is { } key ? one.Key == key
                : asked.Tag is { } tag ? one.Tags.Contains(tag)
                : one.Key.StartsWith(asked.Prefix!, StringComparison.Ordinal))
            .ToList();
        Remove(going);
        return new() { DeletedEntries = going.Count, FreedBytes = going.Sum(one => one.EntryBytes) };
    }

    /// <summary>Has no entries any more, and says what they took, and what of that was their content.</summary>
    public (long Cleared, long Returned) Clear()
    {
        var taken = Close();
        Entries = [];
        return taken;
    }

    /// <summary>Says what its entries took; they stay only for who takes them over.</summary>
    public (long Cleared, long Returned) Close() =>
        (HeldBytes, Entries.Values.Sum(one => one.Content.Data.Length + (one.Vector?.RowBytes ?? 0)));

    /// <summary>What it holds and saves.</summary>
    public StoreFigures Figures() => new()
    {
        Store = Name,
        Kind = Kind,
        EntryCount = Count,
        HeldBytes = HeldBytes,
        LimitBytes = LimitBytes,
        Hits = Hits,
        Misses = Misses,
        SavedMs = SavedMs,
        Evictions = Evictions,
        PriceMsPerMib = IsPriced ? Price(Cheapest()) : null,
    };

    /// <summary>Removes what has ended.</summary>
    public void Expire() => Remove([.. Entries.Values.Where(one => one.Lease?.IsOver(clock) == true)]);

    /// <summary>What the next MiB of entries costs; null for none.</summary>
    public static double? Price(IEnumerable<HeldEntry> cheapest)
    {
        var (bytes, cost) = (0L, 0.0);
        foreach (var one in cheapest.TakeWhile(_ => bytes < MiB))
        {
            (bytes, cost) = (bytes + one.EntryBytes, cost + one.CostMs);
        }

        return bytes == 0 ? null : Math.Round(cost * MiB / bytes, 6);
    }

    /// <summary>The entries that may go, in the order in which they do.</summary>
    public virtual IEnumerable<HeldEntry> Cheapest() => [];

    /// <summary>Why an entry of so many bytes can't be taken now.</summary>
    protected virtual string? Refusal(long bytes, HeldEntry? replaced) => null;

    /// <summary>An entry's vector as it is kept.</summary>
    protected virtual StoredVector? Vector(IReadOnlyList<double>? given) => given is null
        ? null
        : throw InMemoryLedger.Invalid(StoreActions.Put, "data.vector", $"a store of kind {Kind.ToWord()} keeps none");

    protected virtual void Used(HeldEntry entry)
    {
    }

    protected void Refuse(string option, bool isGiven)
    {
        if (isGiven)
        {
            throw InMemoryLedger.Invalid(StoreActions.Open, $"data.options.{option}", $"a store of kind {Kind.ToWord()} has none");
        }
    }

    protected IEnumerable<HeldEntry> Having(IReadOnlyList<string> tags) =>
        Entries.Values.Where(one => tags.All(one.Tags.Contains));

    /// <summary>Counts whether a search found something.</summary>
    protected IReadOnlyList<(HeldEntry Entry, double Score)> Nearest(IEnumerable<(HeldEntry Entry, double Score)> scored, long limit)
    {
        var found = scored
            .OrderByDescending(one => one.Score)
            .ThenBy(one => one.Entry.Key, StringComparer.Ordinal)
            .Take((int)limit)
            .ToList();
        (Hits, Misses) = found.Count > 0 ? (Hits + 1, Misses) : (Hits, Misses + 1);
        return found;
    }

    protected Client.WorkerRequestException NotSearched(string reason) => InMemoryLedger.Refused(
        ErrorCode.Unsupported,
        StoreActions.Search,
        reason,
        new Dictionary<string, object?> { ["store"] = Name, ["kind"] = Kind.ToWord() });

    private static StoreOptions Over(StoreOptions given, StoreOptions others) => new()
    {
        MaxBytes = given.MaxBytes ?? others.MaxBytes,
        MaxEntries = given.MaxEntries ?? others.MaxEntries,
        TtlMs = given.TtlMs ?? others.TtlMs,
        Dimensions = given.Dimensions ?? others.Dimensions,
        Metric = given.Metric ?? others.Metric,
        Persist = given.Persist ?? others.Persist,
    };

    private StoreEntry Row(HeldEntry one) =>
        new() { Key = one.Key, EntryBytes = one.EntryBytes, AgeMs = AgeMs(one), ExpiresInMs = one.Lease?.Left(clock) };

    private long AgeMs(HeldEntry entry) => (long)clock.GetElapsedTime(entry.MadeAt).TotalMilliseconds;

    /// <summary>What has to go so that so many bytes fit within the bounds, beside what they replace.</summary>
    private List<HeldEntry> Victims(long bytes, HeldEntry? replaced)
    {
        var over = HeldBytes - (replaced?.EntryBytes ?? 0) + bytes - LimitBytes;
        var many = MaxEntries is { } most ? Count - (replaced is null ? 0 : 1) + (bytes > 0 ? 1 : 0) - most : 0;
        var victims = new List<HeldEntry>();
        foreach (var one in Cheapest().Where(one => one != replaced).TakeWhile(_ => over > 0 || many > 0))
        {
            victims.Add(one);
            (over, many) = (over - one.EntryBytes, many - 1);
        }

        return victims;
    }

    private void Evict(List<HeldEntry> going)
    {
        Evictions += going.Count;
        Remove(going);
    }

    private void Remove(IReadOnlyList<HeldEntry> going)
    {
        foreach (var one in going)
        {
            Entries.Remove(one.Key);
        }
    }
}

using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>Which stores are open, by scope and name. Asking opens none.</summary>
/// <param name="disk">What outlives the worker; null where it was started without a folder.</param>
/// <param name="clock">Runs lifetimes and ages.</param>
internal sealed class HeldStores(Dictionary<(MemoryScope, StoreKind, string), HeldStore>? disk, TimeProvider clock)
{
    private readonly Dictionary<MemoryScope, Dictionary<string, HeldStore>> _open = [];

    /// <summary>All that are open, each once.</summary>
    public IEnumerable<HeldStore> All => _open.Values.SelectMany(one => one.Values);

    public StoreOpenResult Open(StoreOpenParams asked)
    {
        var scope = new MemoryScope(asked.UserId, asked.ProjectId);
        var given = asked.Options ?? new();
        var known = Find(asked.Store, scope);
        if (known is null)
        {
            var (made, isNew) = Make(asked, scope, given);
            Of(scope)[asked.Store] = made;
            return Opened(made, isNew);
        }

        if (known.Kind != asked.Kind)
        {
            throw InMemoryLedger.Invalid(StoreActions.Open, "data.kind", $"'{asked.Store}' is open as {known.Kind.ToWord()}: close it first");
        }

        known.Configure(known.Resolved(given));
        return Opened(known, isNew: false);
    }

    public HeldStore Get(string name, string userId, string projectId, string action)
    {
        var scope = new MemoryScope(userId, projectId);
        return Find(name, scope) ?? throw InMemoryLedger.Refused(
            ErrorCode.StoreNotFound,
            action,
            $"no store '{name}' is open in this scope: store.open opens it",
            new Dictionary<string, object?> { ["store"] = name, ["user_id"] = userId, ["project_id"] = projectId });
    }

    public StoreCloseResult Close(StoreCloseParams asked)
    {
        var store = Get(asked.Store, asked.UserId, asked.ProjectId, StoreActions.Close);
        var (cleared, returned) = Close(store, new(asked.UserId, asked.ProjectId));
        return new() { ClearedBytes = cleared, ReturnedBytes = returned };
    }

    public StoreDeleteScopeResult DeleteScope(StoreDeleteScopeParams asked)
    {
        var names = new List<string>();
        var (entries, freed) = (0L, 0L);
        foreach (var (scope, store) in _open.SelectMany(one => one.Value.Values.Select(store => (one.Key, store))).ToList())
        {
            if (IsMeant(scope))
            {
                names.Add(store.Name);
                entries += store.IsLasting ? 0 : store.Count;
                freed += Close(store, scope).Cleared;
            }
        }

        foreach (var ((scope, kind, name), store) in disk?.ToList() ?? [])
        {
            if (IsMeant(scope))
            {
                names.Add(name);
                (entries, freed) = (entries + store.Count, freed + store.HeldBytes);
                disk!.Remove((scope, kind, name));
            }
        }

        return new() { Stores = [.. names.Distinct()], DeletedEntries = entries, FreedBytes = freed };

        bool IsMeant(MemoryScope scope) => scope.UserId == asked.UserId && (asked.ProjectId ?? scope.ProjectId) == scope.ProjectId;
    }

    public StoreStatsResult Stats(StoreStatsParams asked)
    {
        IEnumerable<HeldStore> stores = asked.Store is { } name
            ? [Get(name, asked.UserId, asked.ProjectId, StoreActions.Stats)]
            : _open.GetValueOrDefault(new(asked.UserId, asked.ProjectId))?.Values ?? Enumerable.Empty<HeldStore>();
        var rows = stores.Select(one => one.Figures()).ToList();
        return new()
        {
            EntryCount = rows.Sum(one => one.EntryCount),
            HeldBytes = rows.Sum(one => one.HeldBytes),
            LimitBytes = rows.Sum(one => one.LimitBytes),
            Hits = rows.Sum(one => one.Hits),
            Misses = rows.Sum(one => one.Misses),
            SavedMs = rows.Sum(one => one.SavedMs),
            Evictions = rows.Sum(one => one.Evictions),
            PriceMsPerMib = rows.Min(one => one.PriceMsPerMib),
            Stores = rows,
        };
    }

    /// <summary>Removes what has ended, whether it is asked for or not.</summary>
    public void Expire()
    {
        foreach (var one in All)
        {
            one.Expire();
        }
    }

    private static StoreOpenResult Opened(HeldStore store, bool isNew) =>
        new() { Store = store.Name, Kind = store.Kind, Created = isNew, LimitBytes = store.LimitBytes };

    private (HeldStore Made, bool IsNew) Make(StoreOpenParams asked, MemoryScope scope, StoreOptions given)
    {
        var home = (scope, asked.Kind, asked.Store);
        var kept = disk?.GetValueOrDefault(home);
        given = New(asked, isLasting: false).Resolved(given);
        if (given.Persist == true && disk is null)
        {
            throw InMemoryLedger.Invalid(
                StoreActions.Open, "data.options.persist", "this worker keeps nothing on disk: start it with --store-folder");
        }

        if (given.Persist == false && kept is not null)
        {
            throw InMemoryLedger.Invalid(
                StoreActions.Open, "data.options.persist", "it is on disk: open it without that, or delete its scope first");
        }

        var made = New(asked, isLasting: kept is not null || given.Persist == true);
        made.TakeOver(given, kept);
        if (made.IsLasting)
        {
            disk![home] = made;
        }

        return (made, kept is null);
    }

    private HeldStore New(StoreOpenParams asked, bool isLasting) => asked.Kind switch
    {
        StoreKind.Cache => new HeldCache(asked.Store, clock) { IsLasting = isLasting },
        StoreKind.Sessions => new HeldSessions(asked.Store, clock) { IsLasting = isLasting },
        StoreKind.Vectors => new HeldVectors(asked.Store, clock) { IsLasting = isLasting },
        StoreKind.Preferences => new HeldPreferences(asked.Store, clock) { IsLasting = isLasting },
        _ => throw InMemoryLedger.Refused(
            ErrorCode.Unsupported,
            StoreActions.Open,
            $"{nameof(InMemoryWorker)} has no stores of kind {asked.Kind.ToWord()}: what is in them is found by the worker's own index; "
                + $"say with {nameof(InMemoryWorker.Answer)} what it answers",
            new Dictionary<string, object?> { ["kind"] = asked.Kind.ToWord() }),
    };

    private HeldStore? Find(string name, MemoryScope scope) => _open.GetValueOrDefault(scope)?.GetValueOrDefault(name);

    private Dictionary<string, HeldStore> Of(MemoryScope scope) =>
        _open.TryGetValue(scope, out var there) ? there : _open[scope] = [];

    /// <summary>What is persistent stays: another store takes its entries over when it is opened.</summary>
    private (long Cleared, long Returned) Close(HeldStore store, MemoryScope scope)
    {
        _open[scope].Remove(store.Name);
        if (_open[scope].Count == 0)
        {
            _open.Remove(scope);
        }

        return store.Close();
    }
}

using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

internal sealed partial class InMemoryLedger
{
    private const long LentForMs = 60_000;

    private readonly HeldStores _stores = new(disk, clock);

    private StorePutResult PutEntry(StorePutParams asked)
    {
        var store = _stores.Get(asked.Store, asked.UserId, asked.ProjectId, StoreActions.Put);
        if (asked.AllocationId is not { } given)
        {
            return store.Put(asked, StoredContent.Of(asked.Value));
        }

        var allocation = Allocation(given, StoreActions.Put);
        store.Check(allocation.SizeBytes);
        return store.Put(asked, new(Bytes(allocation), IsJson: false));
    }

    private StoreGetResult GetEntry(StoreGetParams asked)
    {
        var found = _stores.Get(asked.Store, asked.UserId, asked.ProjectId, StoreActions.Get).Get(asked.Key);
        var lent = found is { Entry.Content: { IsJson: false } content } ? Lend(content.Data) : null;
        return new()
        {
            Found = found is not null,
            Value = found?.Entry.Content.Value,
            AllocationId = lent?.AllocationId,
            SharedMemory = lent?.SharedMemory,
            AgeMs = found?.AgeMs,
        };
    }

    private StoreSearchResult SearchStore(StoreSearchParams asked)
    {
        var store = _stores.Get(asked.Store, asked.UserId, asked.ProjectId, StoreActions.Search);
        var found = store.Search(asked);
        return new()
        {
            Results = [.. found.Select(one => new StoreHit { Key = one.Entry.Key, Score = one.Score, Value = one.Entry.Content.Value })],
            Prompt = store.Prompt(found.Select(one => one.Entry)),
        };
    }

    private StoreListResult ListEntries(StoreListParams asked) =>
        _stores.Get(asked.Store, asked.UserId, asked.ProjectId, StoreActions.List).List(asked.After, (int)asked.Limit);

    private StoreDeleteResult DeleteEntries(StoreDeleteParams asked) =>
        _stores.Get(asked.Store, asked.UserId, asked.ProjectId, StoreActions.Delete).Delete(asked);

    private StoreClearResult ClearStore(StoreClearParams asked)
    {
        var (cleared, returned) = _stores.Get(asked.Store, asked.UserId, asked.ProjectId, StoreActions.Clear).Clear();
        return new() { ClearedBytes = cleared, ReturnedBytes = returned };
    }

    private StoreLoadFolderResult LoadFolder(StoreLoadFolderParams asked)
    {
        var store = _stores.Get(asked.Store, asked.UserId, asked.ProjectId, StoreActions.LoadFolder);
        throw Refused(
            ErrorCode.Unsupported,
            StoreActions.LoadFolder,
            $"folders are loaded into stores of kind documents, and '{store.Name}' is of kind {store.Kind.ToWord()}",
            new Dictionary<string, object?> { ["store"] = store.Name, ["kind"] = store.Kind.ToWord() });
    }

    /// <summary>The stores of one name and kind, over all scopes, as the consumer that they are.</summary>
    private IEnumerable<ConsumerStatus> StoreConsumers() => _stores.All.GroupBy(one => (one.Kind, one.Name)).Select(together =>
    {
        var (figures, isPriced) = (together.Select(one => one.Figures()).ToList(), together.First().IsPriced);
        var held = figures.Sum(one => one.HeldBytes);
        return new ConsumerStatus
        {
            ConsumerId = $"store:{together.Key.Kind.ToWord()}:{together.Key.Name}",
            Kind = $"store_{together.Key.Kind.ToWord()}",
            DeviceId = Host().DeviceId,
            HeldBytes = held,
            FloorBytes = isPriced ? 0 : held,
            InUseBytes = 0,
            LimitBytes = null,
            Hits = figures.Sum(one => one.Hits),
            Misses = figures.Sum(one => one.Misses),
            SavedMs = figures.Sum(one => one.SavedMs),
            PriceMsPerMib = isPriced ? HeldStore.Price(together.SelectMany(one => one.Cheapest()).OrderBy(one => one.CostMs / one.EntryBytes)) : null,
            ClaimedBytes = 0,
            ReturnedBytes = 0,
            LastReleasedMsAgo = null,
        };
    });

    /// <summary>A copy of an allocation's bytes; what cannot be mapped was never written, and is all zeros.</summary>
    private static byte[] Bytes(HeldAllocation one)
    {
        if (one.IsExternal)
        {
            throw Unsupported(
                StoreActions.Put,
                $"{one.AllocationId} is held by the host: the worker has only the record of it",
                new() { ["allocation_id"] = one.AllocationId, ["memory_type"] = MemoryType.External.ToWord() });
        }

        return one.SharedMemory is { } shared ? File.ReadAllBytes(shared.Path) : new byte[one.SizeBytes];
    }

    /// <summary>A copy of an entry's bytes, which a host can map.</summary>
    private HeldAllocation Lend(byte[] data)
    {
        var size = Math.Max(1, data.Length);
        MakeFit(Host(), size, makeRoom: false, StoreActions.Get);
        var made = Add(++_named, Host(), new()
        {
            SizeBytes = size,
            DeviceId = Host().DeviceId,
            MemoryType = MemoryType.Shared,
            Purpose = StoreActions.Get,
            LeaseMs = LentForMs,
        });
        File.WriteAllBytes(made.SharedMemory!.Path, data);
        return made;
    }
}

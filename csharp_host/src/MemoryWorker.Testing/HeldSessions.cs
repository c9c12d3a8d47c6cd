using System.Text.Json;
using System.Text.Json.Nodes;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>What can't be made again: at most so many, for so long after they were used last; those used longest ago go.</summary>
internal sealed class HeldSessions(string name, TimeProvider clock) : HeldStore(name, StoreKind.Sessions, clock)
{
    private const int HistoryBytes = 256 * 1024;

    private readonly TimeProvider _clock = clock;

    protected override long? DefaultEntries => 500;

    protected override long? DefaultTtlMs => 1_800_000;

    public override StorePutResult Put(StorePutParams asked, StoredContent content) => base.Put(asked, Trimmed(content));

    public override IEnumerable<HeldEntry> Cheapest() => Entries.Values.OrderBy(one => one.LastUse).ToList();

    protected override void Used(HeldEntry entry) => entry.Lease = Lease.Of(_clock, entry.Lease?.Milliseconds);

    /// <summary>A session with the newest of its history.</summary>
    private static StoredContent Trimmed(StoredContent content)
    {
        if (!content.IsJson || content.Data.Length <= HistoryBytes
            || JsonNode.Parse(content.Data) is not JsonObject session || session["history"] is not JsonArray history)
        {
            return content;
        }

        var kept = 0;
        var left = HistoryBytes - "[]".Length;
        while (kept < history.Count && (left -= Size(history[^(kept + 1)]) + 1) >= 0)
        {
            kept++;
        }

        if (history.Count > 0 && kept == 0)
        {
            var size = Size(history[^1]);
            throw InMemoryLedger.Refused(
                ErrorCode.LimitExceeded,
                StoreActions.Put,
                $"the newest message of its history takes {size} bytes of JSON, and a history may have {HistoryBytes}"
                    + ": store what is long elsewhere, and its key here; the session is as it was",
                new Dictionary<string, object?> { ["entry_bytes"] = (long)size, ["limit_bytes"] = (long)HistoryBytes });
        }

        while (history.Count > kept)
        {
            history.RemoveAt(0);
        }

        return Stored(session);
    }

    private static int Size(JsonNode? node) => Stored(node).Data.Length;

    private static StoredContent Stored(JsonNode? node)
    {
        using var document = JsonDocument.Parse(node?.ToJsonString() ?? "null");
        return StoredContent.Of(document.RootElement);
    }
}

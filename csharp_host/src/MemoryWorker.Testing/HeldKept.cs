using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>What can't be made again, and does not go by itself but when its own time is over: what does not fit is refused.</summary>
internal abstract class HeldKept(string name, StoreKind kind, TimeProvider clock) : HeldStore(name, kind, clock)
{
    protected override string? Refusal(long bytes, HeldEntry? replaced)
    {
        if (replaced is null && MaxEntries is { } most && Count >= most)
        {
            return $"it is full: max_entries is {most}; delete some, or open it with more";
        }

        var grows = bytes - (replaced?.EntryBytes ?? 0);
        return grows > 0 && HeldBytes + grows > LimitBytes
            ? $"it would hold more than max_bytes, {LimitBytes}: delete some, or open it with more"
            : null;
    }
}

using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Something looks like a leak.</summary>
public sealed record LeakSuspectedEvent(long Sequence, int ProcessId, LeakSuspectedData Data)
    : WorkerEvent(Sequence, ProcessId);

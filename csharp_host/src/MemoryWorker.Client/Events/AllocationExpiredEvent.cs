using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>A lease ran out and its allocation was freed.</summary>
public sealed record AllocationExpiredEvent(long Sequence, int ProcessId, AllocationExpiredData Data)
    : WorkerEvent(Sequence, ProcessId);

using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>The worker made room by itself.</summary>
public sealed record OptimizedEvent(long Sequence, int ProcessId, OptimizedData Data)
    : WorkerEvent(Sequence, ProcessId);

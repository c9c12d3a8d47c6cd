using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>A model was unloaded, and why.</summary>
public sealed record ModelUnloadedEvent(long Sequence, int ProcessId, ModelUnloadedData Data)
    : WorkerEvent(Sequence, ProcessId);

using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>A device went away, and what lay on it.</summary>
public sealed record DeviceLostEvent(long Sequence, int ProcessId, DeviceLostData Data)
    : WorkerEvent(Sequence, ProcessId);

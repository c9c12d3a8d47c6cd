using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>A device came to another level of pressure.</summary>
public sealed record PressureChangedEvent(long Sequence, int ProcessId, PressureChangedData Data)
    : WorkerEvent(Sequence, ProcessId);

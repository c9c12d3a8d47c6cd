using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>A device that was lost can be asked for memory again.</summary>
public sealed record DeviceRecoveredEvent(long Sequence, int ProcessId, DeviceRecoveredData Data)
    : WorkerEvent(Sequence, ProcessId);

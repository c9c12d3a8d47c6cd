using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>The most that the worker may use of a device changed.</summary>
public sealed record BudgetChangedEvent(long Sequence, int ProcessId, BudgetChangedData Data)
    : WorkerEvent(Sequence, ProcessId);

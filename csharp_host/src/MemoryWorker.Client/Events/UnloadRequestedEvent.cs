using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>
/// A model that another process holds is wanted unloaded. Its owner answers with
/// <see cref="IServiceMemory.ConfirmModelUnloadedAsync"/>, or with <see cref="IServiceMemory.ConfirmModelLoadedAsync"/>
/// if it keeps it.
/// </summary>
public sealed record UnloadRequestedEvent(long Sequence, int ProcessId, UnloadRequestedData Data)
    : WorkerEvent(Sequence, ProcessId);

using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Something the worker said unasked, after it was asked to.</summary>
/// <param name="Sequence">Counts from 1 for each reader, over restarts too. A gap is the events that this reader lost by falling behind.</param>
/// <param name="ProcessId">The worker that said it.</param>
public abstract record WorkerEvent(long Sequence, int ProcessId)
{
    /// <summary>What it is called in a subscription.</summary>
    public abstract EventName Name { get; }
}

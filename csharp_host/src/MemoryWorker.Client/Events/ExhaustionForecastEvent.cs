using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>A device is about to run out if it goes on like this; or, with nulls, is not any more.</summary>
public sealed record ExhaustionForecastEvent(long Sequence, int ProcessId, ExhaustionForecastData Data)
    : WorkerEvent(Sequence, ProcessId);

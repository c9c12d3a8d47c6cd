namespace MemoryWorker.Client;

/// <summary>Where the worker stands at one moment.</summary>
/// <param name="State">What the supervisor is doing.</param>
/// <param name="ProcessId">The worker that answers; null where none does.</param>
/// <param name="WorkerVersion">As it said in <c>worker.hello</c>.</param>
/// <param name="Starts">Processes that were started.</param>
/// <param name="Exits">Processes that ended, disposal not counted.</param>
/// <param name="InFlight">Requests without a terminal reply.</param>
/// <param name="JunkLines">Lines on stdout, over all workers, that were no frame or answered nothing.</param>
public sealed record WorkerSnapshot(
    WorkerState State,
    int? ProcessId,
    string? WorkerVersion,
    long Starts,
    long Exits,
    int InFlight,
    long JunkLines);

namespace MemoryWorker.Client;

/// <summary>Where the worker stands at one moment.</summary>
public sealed record WorkerSnapshot
{
    /// <summary>What the supervisor is doing.</summary>
    public required WorkerState State { get; init; }

    /// <summary>The worker that answers; null where none does.</summary>
    public int? ProcessId { get; init; }

    /// <summary>As it said in <c>worker.hello</c>.</summary>
    public string? WorkerVersion { get; init; }

    /// <summary>Processes that were started.</summary>
    public required long Starts { get; init; }

    /// <summary>Processes that ended, disposal not counted.</summary>
    public required long Exits { get; init; }

    /// <summary>Requests without a terminal reply.</summary>
    public required int InFlight { get; init; }

    /// <summary>Lines on stdout, over all workers, that were no frame or answered nothing.</summary>
    public required long JunkLines { get; init; }
}

namespace MemoryWorker.Client;

/// <summary>One line of the worker's stderr.</summary>
public sealed record WorkerLogEntry
{
    /// <summary>From a JSON line's <c>level</c>; a warning otherwise.</summary>
    public required WorkerLogLevel Level { get; init; }

    /// <summary>From a JSON line's <c>message</c>; the line itself otherwise.</summary>
    public required string Message { get; init; }

    /// <summary>The line as it came.</summary>
    public required string Line { get; init; }

    /// <summary>Whose line it is.</summary>
    public required int ProcessId { get; init; }
}

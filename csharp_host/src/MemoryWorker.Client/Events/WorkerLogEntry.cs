namespace MemoryWorker.Client;

/// <summary>How much a line on the worker's stderr matters.</summary>
public enum WorkerLogLevel
{
    /// <summary>For whoever is looking for a fault.</summary>
    Debug,

    /// <summary>Normal running.</summary>
    Information,

    /// <summary>Something odd, and every line that is not JSON.</summary>
    Warning,

    /// <summary>A request or a device failed.</summary>
    Error,

    /// <summary>The worker cannot go on.</summary>
    Critical,
}

/// <summary>One line of the worker's stderr.</summary>
/// <param name="Level">From a JSON line's <c>level</c>; a warning otherwise.</param>
/// <param name="Message">From a JSON line's <c>message</c>; the line itself otherwise.</param>
/// <param name="Line">The line as it came.</param>
/// <param name="ProcessId">Whose line it is.</param>
public sealed record WorkerLogEntry(WorkerLogLevel Level, string Message, string Line, int ProcessId);

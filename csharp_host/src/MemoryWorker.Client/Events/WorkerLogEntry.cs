namespace MemoryWorker.Client;

/// <summary>One line of the worker's stderr.</summary>
/// <param name="Level">From a JSON line's <c>level</c>; a warning otherwise.</param>
/// <param name="Message">From a JSON line's <c>message</c>; the line itself otherwise.</param>
/// <param name="Line">The line as it came.</param>
/// <param name="ProcessId">Whose line it is.</param>
public sealed record WorkerLogEntry(WorkerLogLevel Level, string Message, string Line, int ProcessId);

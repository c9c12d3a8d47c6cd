namespace MemoryWorker.Client;

/// <summary>A handler of this host threw; the worker and the other handlers go on.</summary>
/// <param name="handler">The event that it handles, or <c>Progress</c>.</param>
/// <param name="exception">What it threw.</param>
public sealed class WorkerHandlerFailedEventArgs(string handler, Exception exception) : EventArgs
{
    /// <summary>The event that it handles, or <c>Progress</c>.</summary>
    public string Handler { get; } = handler;

    /// <summary>What it threw.</summary>
    public Exception Exception { get; } = exception;
}

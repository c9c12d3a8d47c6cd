namespace MemoryWorker.Client;

/// <summary>The worker process ended with the request in flight. Its memory went with it.</summary>
public sealed class WorkerExitedException : WorkerException
{
    /// <summary>Says that a worker ended, and what is known of it.</summary>
    public WorkerExitedException(string message, WorkerFailure? failure = null)
        : base("worker_exited", message, failure ?? new() { Executed = Protocol.Executed.Unknown }, null)
    {
    }
}

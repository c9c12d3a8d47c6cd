namespace MemoryWorker.Client;

/// <summary>The worker process ended with the request in flight. Its memory went with it.</summary>
public sealed class WorkerExitedException : WorkerException
{
    internal WorkerExitedException(string message, WorkerFailure failure)
        : base("worker_exited", message, failure, null)
    {
    }
}

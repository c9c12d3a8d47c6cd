namespace MemoryWorker.Client;

/// <summary>No worker could be started, or too many died and the breaker is open.</summary>
public class WorkerStartException : WorkerException
{
    /// <summary>Says why none was started.</summary>
    public WorkerStartException(string message, WorkerFailure? failure = null, Exception? inner = null)
        : base("worker_start_failed", message, (failure ?? new()) with { Retryable = true }, inner)
    {
    }

    private protected WorkerStartException(string code, string message, WorkerFailure failure, Exception? inner)
        : base(code, message, failure, inner)
    {
    }

    /// <summary>When a call will try again, where the breaker is open.</summary>
    public DateTimeOffset? RetryAt { get; init; }
}

namespace MemoryWorker.Client;

/// <summary>A call took longer than its timeout. The worker was asked to cancel it.</summary>
public sealed class WorkerTimeoutException : WorkerException
{
    /// <summary>Says which time ran out.</summary>
    public WorkerTimeoutException(string message, TimeSpan timeout, WorkerFailure? failure = null)
        : base("timeout", message, (failure ?? new()) with { Retryable = true }, null) => Timeout = timeout;

    /// <summary>The time that ran out.</summary>
    public TimeSpan Timeout { get; }
}

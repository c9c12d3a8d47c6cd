namespace MemoryWorker.Client;

/// <summary>A call took longer than its timeout. The worker was asked to cancel it.</summary>
public sealed class WorkerTimeoutException : WorkerException
{
    internal WorkerTimeoutException(string message, TimeSpan timeout, WorkerFailure failure)
        : base("timeout", message, failure with { Retryable = true }, null) => Timeout = timeout;

    /// <summary>The time that ran out.</summary>
    public TimeSpan Timeout { get; }
}

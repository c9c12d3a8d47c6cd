using System.Text.Json;

namespace MemoryWorker.Client;

/// <summary>The worker answered a request with an error.</summary>
public sealed class WorkerRequestException : WorkerException
{
    internal WorkerRequestException(
        string code, string message, string reason, JsonElement details, WorkerFailure failure)
        : base(code, message, failure, null)
    {
        Reason = reason;
        Details = details;
    }

    /// <summary>The worker's own message: what was asked and what was there, in bytes.</summary>
    public string Reason { get; }

    /// <summary>Figures that belong to the code, an object.</summary>
    public JsonElement Details { get; }
}

/// <summary>No worker could be started, or too many died and the breaker is open.</summary>
public sealed class WorkerStartException : WorkerException
{
    internal WorkerStartException(string message, WorkerFailure failure, Exception? inner = null)
        : base("worker_start_failed", message, failure with { Retryable = true }, inner)
    {
    }

    /// <summary>When a call will try again, where the breaker is open.</summary>
    public DateTimeOffset? RetryAt { get; internal init; }
}

/// <summary>The worker process ended with the request in flight. Its memory went with it.</summary>
public sealed class WorkerExitedException : WorkerException
{
    internal WorkerExitedException(string message, WorkerFailure failure)
        : base("worker_exited", message, failure, null)
    {
    }
}

/// <summary>The worker's answer to a request could not be read; the stream goes on.</summary>
public sealed class WorkerProtocolException : WorkerException
{
    internal WorkerProtocolException(string message, WorkerFailure failure, Exception? inner = null)
        : base("protocol_violation", message, failure, inner)
    {
    }
}

/// <summary>A call took longer than its timeout. The worker was asked to cancel it.</summary>
public sealed class WorkerTimeoutException : WorkerException
{
    internal WorkerTimeoutException(string message, TimeSpan timeout, WorkerFailure failure)
        : base("timeout", message, failure with { Retryable = true }, null) => Timeout = timeout;

    /// <summary>The time that ran out.</summary>
    public TimeSpan Timeout { get; }
}

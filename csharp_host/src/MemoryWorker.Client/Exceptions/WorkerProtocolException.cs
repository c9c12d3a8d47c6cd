namespace MemoryWorker.Client;

/// <summary>The worker's answer to a request could not be read; the stream goes on.</summary>
public sealed class WorkerProtocolException : WorkerException
{
    internal WorkerProtocolException(string message, WorkerFailure failure, Exception? inner = null)
        : base("protocol_violation", message, failure, inner)
    {
    }
}

namespace MemoryWorker.Client;

/// <summary>The worker's answer to a request could not be read; the stream goes on.</summary>
public sealed class WorkerProtocolException : WorkerException
{
    /// <summary>Says what could not be read.</summary>
    public WorkerProtocolException(string message, WorkerFailure? failure = null, Exception? inner = null)
        : base("protocol_violation", message, failure ?? new() { Executed = Protocol.Executed.Unknown }, inner)
    {
    }
}

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

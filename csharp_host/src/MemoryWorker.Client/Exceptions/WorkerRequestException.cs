using System.Text.Json;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>The worker answered a request with an error.</summary>
public sealed class WorkerRequestException : WorkerException
{
    internal WorkerRequestException(ErrorCode code, string action, string reason, JsonElement details, WorkerFailure failure)
        : this(code, code.ToWord(), action, reason, details, failure)
    {
    }

    internal WorkerRequestException(ErrorBody error, string action, string requestId, int processId)
        : this(
            error.Code,
            error.UnknownWords?.GetValueOrDefault("code") ?? error.Code.ToWord(),
            action,
            error.Message,
            error.Details,
            new WorkerFailure
            {
                Executed = error.Executed,
                Retryable = error.Retryable,
                RequestId = requestId,
                ProcessId = processId,
            })
    {
    }

    private WorkerRequestException(
        ErrorCode code, string word, string action, string reason, JsonElement details, WorkerFailure failure)
        : base(word, $"{action}: {reason} ({word})", failure, null)
    {
        ErrorCode = code;
        Reason = reason;
        Details = details;
    }

    /// <summary>Why; <see cref="ErrorCode.Unknown"/> for a code newer than this library, whose text is <see cref="WorkerException.Code"/>.</summary>
    public ErrorCode ErrorCode { get; }

    /// <summary>The worker's own message: what was asked and what was there, in bytes.</summary>
    public string Reason { get; }

    /// <summary>Figures that belong to the code, an object.</summary>
    public JsonElement Details { get; }
}

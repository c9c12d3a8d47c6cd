using System.Text.Json;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>The worker answered a request with an error.</summary>
public sealed class WorkerRequestException : WorkerException
{
    /// <summary>Says what the worker refused, and why.</summary>
    /// <param name="code">Any but <see cref="ErrorCode.Unknown"/>.</param>
    /// <param name="action">What was asked for, as it is sent: <c>memory.allocate</c>.</param>
    /// <param name="reason"><inheritdoc cref="Reason" path="/summary"/></param>
    /// <param name="details">An object; an empty one where it is left out.</param>
    /// <param name="failure">What else is known; null for a request that changed nothing and may not be repeated.</param>
    public WorkerRequestException(
        ErrorCode code, string action, string reason, JsonElement details = default, WorkerFailure? failure = null)
        : this(code, code.ToWord(), action, reason, details, failure ?? new())
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
        Details = details.ValueKind == JsonValueKind.Undefined ? WireReader.EmptyObject : details;
    }

    /// <summary>Why; <see cref="ErrorCode.Unknown"/> for a code newer than this library, whose text is <see cref="WorkerException.Code"/>.</summary>
    public ErrorCode ErrorCode { get; }

    /// <summary>The worker's own message: what was asked and what was there, in bytes.</summary>
    public string Reason { get; }

    /// <summary>Figures that belong to the code, an object.</summary>
    public JsonElement Details { get; }
}

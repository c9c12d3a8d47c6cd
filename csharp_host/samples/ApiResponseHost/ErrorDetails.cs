using System.Text.Json;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;
using MemoryWorker.Hosting;

namespace ApiResponseHost;

/// <summary>What went wrong, for code and for people.</summary>
public sealed record ErrorDetails
{
    /// <summary>As in the protocol: <c>out_of_memory</c>; the client's own are <c>worker_exited</c> and the like.</summary>
    public string Code { get; init; } = "internal_error";

    public string Message { get; init; } = string.Empty;

    /// <summary>Of the answer over HTTP.</summary>
    public int StatusCode { get; init; } = StatusCodes.Status500InternalServerError;

    /// <summary>Figures that belong to the code, whether the request was carried out, and whether asking again can help.</summary>
    public Dictionary<string, object?>? Details { get; init; }

    /// <summary>Says what a failed call says; null for what is no refusal but a fault of the host.</summary>
    public static ErrorDetails? Of(Exception problem) => problem switch
    {
        WorkerException failed => Of(failed),
        NotMappedException unmapped => new() { Code = unmapped.Code, Message = unmapped.Message, StatusCode = unmapped.StatusCode },
        ArgumentException wrong => new()
        {
            Code = "invalid_request",
            Message = wrong.Message,
            StatusCode = StatusCodes.Status400BadRequest,
        },
        ObjectDisposedException => new()
        {
            Code = "shutting_down",
            Message = "the worker was shut down and is not started again: start the host anew",
            StatusCode = StatusCodes.Status503ServiceUnavailable,
        },
        _ => null,
    };

    private static ErrorDetails Of(WorkerException failed)
    {
        var refused = failed as WorkerRequestException;
        var details = new Dictionary<string, object?>();
        foreach (var figure in refused?.Details.EnumerateObject() ?? default)
        {
            details[figure.Name] = figure.Value.ValueKind switch
            {
                JsonValueKind.String => figure.Value.GetString(),
                JsonValueKind.Number when figure.Value.TryGetInt64(out var whole) => whole,
                JsonValueKind.Null => null,
                _ => figure.Value,
            };
        }

        details["executed"] = failed.Executed.ToWord();
        details["retryable"] = failed.Retryable;
        return new()
        {
            Code = failed.Code,
            Message = refused?.Reason ?? failed.Summary, // The worker's last words are for the host's log.
            StatusCode = failed.StatusCode(),
            Details = details,
        };
    }
}

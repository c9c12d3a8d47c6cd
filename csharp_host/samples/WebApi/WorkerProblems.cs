using MemoryWorker.Client;
using Microsoft.AspNetCore.Diagnostics;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Mvc;

namespace WebApi;

/// <summary>Turns a worker's errors into problem details (RFC 9457) with a status that fits.</summary>
internal sealed class WorkerProblems(IProblemDetailsService problems) : IExceptionHandler
{
    public ValueTask<bool> TryHandleAsync(HttpContext context, Exception exception, CancellationToken cancellationToken)
    {
        if (exception is not WorkerException problem)
        {
            return ValueTask.FromResult(false);
        }

        var details = new ProblemDetails
        {
            Status = Status(problem),
            Title = problem.Code,
            Detail = problem is WorkerRequestException refused ? refused.Reason : problem.GetType().Name,
        };
        details.Extensions["code"] = problem.Code;
        details.Extensions["executed"] = problem.Executed;
        details.Extensions["retryable"] = problem.Retryable;
        details.Extensions["requestId"] = problem.RequestId;
        if (problem is WorkerRequestException { Details: var figures })
        {
            details.Extensions["details"] = figures;
        }

        context.Response.StatusCode = details.Status.Value;
        return problems.TryWriteAsync(new ProblemDetailsContext { HttpContext = context, ProblemDetails = details, Exception = exception });
    }

    private static int Status(WorkerException problem) => problem switch
    {
        WorkerTimeoutException => StatusCodes.Status504GatewayTimeout,
        WorkerStartException or WorkerExitedException => StatusCodes.Status503ServiceUnavailable,
        WorkerRequestException => problem.Code switch
        {
            "device_not_found" or "allocation_not_found" or "model_not_found" => StatusCodes.Status404NotFound,
            "invalid_request" or "unsupported" => StatusCodes.Status400BadRequest,
            "frame_too_large" => StatusCodes.Status413PayloadTooLarge,
            "model_busy" or "checksum_mismatch" => StatusCodes.Status409Conflict,
            "out_of_memory" or "limit_exceeded" => StatusCodes.Status507InsufficientStorage,
            "overloaded" or "shutting_down" or "device_unavailable" => StatusCodes.Status503ServiceUnavailable,
            _ => StatusCodes.Status502BadGateway,
        },
        _ => StatusCodes.Status502BadGateway,
    };
}

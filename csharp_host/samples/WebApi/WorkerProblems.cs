using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;
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
        WorkerRequestException refused => refused.ErrorCode switch
        {
            ErrorCode.DeviceNotFound or ErrorCode.AllocationNotFound or ErrorCode.ModelNotFound => StatusCodes.Status404NotFound,
            ErrorCode.InvalidRequest or ErrorCode.Unsupported => StatusCodes.Status400BadRequest,
            ErrorCode.FrameTooLarge => StatusCodes.Status413PayloadTooLarge,
            ErrorCode.ModelBusy or ErrorCode.ChecksumMismatch => StatusCodes.Status409Conflict,
            ErrorCode.OutOfMemory or ErrorCode.LimitExceeded => StatusCodes.Status507InsufficientStorage,
            ErrorCode.Overloaded or ErrorCode.ShuttingDown or ErrorCode.DeviceUnavailable => StatusCodes.Status503ServiceUnavailable,
            _ => StatusCodes.Status502BadGateway,
        },
        _ => StatusCodes.Status502BadGateway,
    };
}

using System.Globalization;
using System.Text.Json;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;
using MemoryWorker.Hosting;
using Microsoft.AspNetCore.Mvc;

namespace WebApi;

/// <summary>
/// Turns what is refused into problem details (RFC 9457) with a status that fits. A refusal is an answer: it is told in
/// one line of the log, not as an unhandled exception, which is why no <c>IExceptionHandler</c> does this.
/// </summary>
internal sealed class Problems(RequestDelegate next, IProblemDetailsService problems, TimeProvider clock, ILogger<Problems> logger)
{
    private static readonly Action<ILogger, string, string, int, string, Exception?> Refused =
        LoggerMessage.Define<string, string, int, string>(
            LogLevel.Information, new EventId(1, nameof(Refused)), "{Method} {Path} was answered {Status}: {Reason}");

    public async Task InvokeAsync(HttpContext context)
    {
        try
        {
            await next(context);
        }
        catch (OperationCanceledException) when (context.RequestAborted.IsCancellationRequested)
        {
            if (!context.Response.HasStarted)
            {
                context.Response.StatusCode = StatusCodes.Status499ClientClosedRequest;
            }
        }
        catch (Exception problem) when (!context.Response.HasStarted && Details(problem) is { } details)
        {
            Refused(logger, context.Request.Method, context.Request.Path, details.Status!.Value, details.Detail!, null);
            context.Response.StatusCode = details.Status.Value;
            if ((problem as WorkerException)?.RetryAfter(clock.GetUtcNow()) is { } wait)
            {
                context.Response.Headers.RetryAfter = Math.Ceiling(wait.TotalSeconds).ToString(CultureInfo.InvariantCulture);
            }

            await problems.TryWriteAsync(new() { HttpContext = context, ProblemDetails = details });
        }
    }

    private static ProblemDetails? Details(Exception problem) => problem switch
    {
        WorkerException failed => Details(failed),
        JsonException malformed => Details(StatusCodes.Status400BadRequest, "invalid_json", $"the body is not JSON: {malformed.Message}"),
        BadHttpRequestException bad => Details(bad.StatusCode, "invalid_request", bad.Message),
        _ => null,
    };

    private static ProblemDetails Details(WorkerException failed)
    {
        var refused = failed as WorkerRequestException;
        var details = Details(failed.StatusCode(), failed.Code, refused?.Reason ?? failed.Summary);
        details.Extensions["executed"] = failed.Executed.ToWord();
        details.Extensions["retryable"] = failed.Retryable;
        if (refused is not null)
        {
            details.Extensions["details"] = refused.Details;
        }

        return details;
    }

    private static ProblemDetails Details(int status, string code, string detail) =>
        new() { Status = status, Title = code, Detail = detail, Extensions = { ["code"] = code } };
}

using System.Text.Json;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Hosting;

/// <summary>What an HTTP host answers where its worker refused, or could not answer.</summary>
public static class WorkerExceptionHttp
{
    /// <summary>The status that fits: 4xx where asking again is no use, 5xx where the worker or its memory is the reason.</summary>
    public static int StatusCode(this WorkerException problem)
    {
        ArgumentNullException.ThrowIfNull(problem);
        return problem switch
        {
            WorkerTimeoutException => 504,
            WorkerStartException or WorkerExitedException => 503,
            WorkerRequestException refused => refused.ErrorCode switch
            {
                _ when refused.Code.EndsWith("_not_found", StringComparison.Ordinal) => 404, // Also of one that comes later.
                ErrorCode.UnknownAction => 404,
                _ when IsOfAnUnknownId(refused.Details) => 404,
                ErrorCode.InvalidJson or ErrorCode.InvalidRequest or ErrorCode.Unsupported => 400,
                ErrorCode.FrameTooLarge => 413,
                ErrorCode.ModelBusy or ErrorCode.ChecksumMismatch or ErrorCode.PlanStale or ErrorCode.DuplicateRequestId => 409,
                ErrorCode.OutOfMemory or ErrorCode.LimitExceeded => 507,
                ErrorCode.Overloaded or ErrorCode.ShuttingDown or ErrorCode.DeviceUnavailable or ErrorCode.Cancelled => 503,
                ErrorCode.DeadlineExceeded => 504,
                _ => 502,
            },
            _ => 502,
        };
    }

    /// <summary>How long a client should wait before it asks again, for the header <c>Retry-After</c>; null where nothing says.</summary>
    /// <param name="problem">What went wrong: an open breaker, or a worker with too much in flight.</param>
    /// <param name="now">The time, in UTC.</param>
    public static TimeSpan? RetryAfter(this WorkerException problem, DateTimeOffset now) => problem switch
    {
        WorkerStartException { RetryAt: { } at } => at > now ? at - now : TimeSpan.Zero,
        WorkerRequestException { Details: var details }
            when details.TryGetProperty("retry_after_ms", out var wait) && wait.TryGetInt64(out var milliseconds) =>
            TimeSpan.FromMilliseconds(milliseconds),
        _ => null,
    };

    /// <summary>An unknown transfer or plan has no error code of its own.</summary>
    private static bool IsOfAnUnknownId(JsonElement details) =>
        details.TryGetProperty("reason", out var reason) && reason.ValueKind == JsonValueKind.String && reason.ValueEquals("not_known");
}

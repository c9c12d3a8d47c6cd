using System.Diagnostics;

namespace ApiResponseHost;

/// <summary>An answer that says itself whether it is one: no method throws what the worker refuses.</summary>
public sealed record ApiResponse<T> : IApiResponse
{
    public bool IsSuccess { get; init; }

    public T? Data { get; init; }

    /// <summary>Null where it is a success.</summary>
    public ErrorDetails? Error { get; init; }

    public string? Message { get; init; }

    /// <summary>In UTC.</summary>
    public DateTime Timestamp { get; init; } = DateTime.UtcNow;

    /// <summary>The trace that the request belongs to: the worker's log lines carry it, too.</summary>
    public string CorrelationId { get; init; } = Activity.Current?.TraceId.ToHexString() ?? Guid.NewGuid().ToString("N");

    public static ApiResponse<T> CreateSuccess(T data, string? message = null) =>
        new() { IsSuccess = true, Data = data, Message = message };

    public static ApiResponse<T> CreateError(ErrorDetails error) => new() { Error = error, Message = error.Message };

    public static ApiResponse<T> CreateError(string code, string message, int statusCode = StatusCodes.Status500InternalServerError) =>
        CreateError(new ErrorDetails { Code = code, Message = message, StatusCode = statusCode });
}

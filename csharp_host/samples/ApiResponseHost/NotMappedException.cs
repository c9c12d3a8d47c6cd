namespace ApiResponseHost;

/// <summary>A request of the older kind that says nothing which the worker could do; the message says what would.</summary>
public sealed class NotMappedException(string message, string code = "invalid_request", int statusCode = StatusCodes.Status400BadRequest)
    : Exception(message)
{
    public string Code => code;

    public int StatusCode => statusCode;
}

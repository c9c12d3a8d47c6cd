namespace ApiResponseHost;

/// <summary>An answer of whatever type.</summary>
public interface IApiResponse
{
    ErrorDetails? Error { get; }
}

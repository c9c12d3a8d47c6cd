using System.Text.Json;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client.Transport;

/// <summary>The <c>error</c> of a reply, read so that a code from a newer worker still comes through.</summary>
internal static class WireError
{
    private static readonly JsonElement NoDetails = JsonDocument.Parse("{}").RootElement.Clone();

    /// <summary>JsonException where it is no error object.</summary>
    public static WorkerRequestException Read(ReadOnlySpan<byte> error, string? requestId, int processId, string action)
    {
        var reader = new Utf8JsonReader(error);
        reader.Read();
        string code = "internal_error", message = string.Empty;
        var executed = Executed.Unknown;
        var retryable = false;
        var details = NoDetails;
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            var name = reader.GetString();
            reader.Read();
            switch (name)
            {
                case "code":
                    code = reader.GetString() ?? code;
                    break;
                case "message":
                    message = reader.GetString() ?? message;
                    break;
                case "executed":
                    executed = reader.ValueTextEquals("no"u8) ? Executed.No
                        : reader.ValueTextEquals("yes"u8) ? Executed.Yes
                        : Executed.Unknown;
                    break;
                case "retryable":
                    retryable = reader.GetBoolean();
                    break;
                case "details":
                    details = JsonElement.ParseValue(ref reader);
                    break;
                default:
                    reader.Skip();
                    break;
            }
        }

        var failure = new WorkerFailure
        {
            Executed = executed,
            Retryable = retryable,
            RequestId = requestId,
            ProcessId = processId,
        };
        return new WorkerRequestException(code, $"{action}: {message} ({code})", message, details, failure);
    }
}

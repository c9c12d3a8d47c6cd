using System.Text;
using System.Text.Json;

namespace MemoryWorker.Client.Transport;

/// <summary>One line from the worker, cut up but not yet read. Valid as long as the line is.</summary>
internal readonly ref struct Frame
{
    /// <summary>Null where none could be read, and on events of the subscription.</summary>
    public string? RequestId { get; private init; }

    /// <summary>Null on events.</summary>
    public bool? Success { get; private init; }

    public ReadOnlySpan<byte> Data { get; private init; }

    public ReadOnlySpan<byte> Error { get; private init; }

    public string? Event { get; private init; }

    public long Sequence { get; private init; }

    /// <summary>Cuts a line up; false for anything that is neither a reply nor an event.</summary>
    public static bool TryParse(ReadOnlySpan<byte> line, out Frame frame)
    {
        frame = default;
        if (line[0] != (byte)'{')
        {
            return false;
        }

        try
        {
            return TryCut(line, out frame);
        }
        catch (Exception problem) when (problem is JsonException or InvalidOperationException or FormatException)
        {
            return false;
        }
    }

    /// <summary>The request id in the head of a line too long to be read, as far as it can be seen.</summary>
    public static string? FindRequestId(ReadOnlySpan<byte> head)
    {
        try
        {
            var reader = new Utf8JsonReader(head, isFinalBlock: false, default);
            while (reader.Read())
            {
                if (reader.TokenType == JsonTokenType.PropertyName && reader.CurrentDepth == 1
                    && reader.ValueTextEquals("request_id"u8))
                {
                    return reader.Read() && reader.TokenType == JsonTokenType.String ? reader.GetString() : null;
                }
            }
        }
        catch (JsonException)
        {
            // Junk, then.
        }

        return null;
    }

    private static bool TryCut(ReadOnlySpan<byte> line, out Frame frame)
    {
        string? requestId = null, name = null;
        bool? success = null;
        ReadOnlySpan<byte> data = default, error = default;
        var sequence = 0L;
        var reader = new Utf8JsonReader(line);
        reader.Read();
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            if (reader.ValueTextEquals("request_id"u8))
            {
                reader.Read();
                requestId = reader.GetString();
            }
            else if (reader.ValueTextEquals("success"u8))
            {
                reader.Read();
                success = reader.GetBoolean();
            }
            else if (reader.ValueTextEquals("data"u8))
            {
                data = Value(line, ref reader);
            }
            else if (reader.ValueTextEquals("error"u8))
            {
                error = Value(line, ref reader);
            }
            else if (reader.ValueTextEquals("event"u8))
            {
                reader.Read();
                name = reader.GetString();
            }
            else if (reader.ValueTextEquals("sequence"u8))
            {
                reader.Read();
                sequence = reader.GetInt64();
            }
            else
            {
                reader.Read();
                reader.Skip();
            }
        }

        reader.Read(); // Throws where something follows the object.
        frame = new Frame
        {
            RequestId = requestId,
            Success = success,
            Data = data,
            Error = error,
            Event = name,
            Sequence = sequence,
        };
        return success is not null ? !(success.Value ? data : error).IsEmpty : name is not null && !data.IsEmpty;
    }

    private static ReadOnlySpan<byte> Value(ReadOnlySpan<byte> line, scoped ref Utf8JsonReader reader)
    {
        reader.Read();
        var start = (int)reader.TokenStartIndex;
        reader.Skip();
        return line[start..(int)reader.BytesConsumed];
    }

    /// <summary>A line as text for a log, cut short.</summary>
    public static string Excerpt(ReadOnlySpan<byte> line) =>
        line.Length <= 200 ? Encoding.UTF8.GetString(line) : Encoding.UTF8.GetString(line[..200]) + "…";
}

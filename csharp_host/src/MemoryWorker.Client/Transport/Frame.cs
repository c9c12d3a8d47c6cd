using System.Text;
using System.Text.Json;

namespace MemoryWorker.Client.Transport;

/// <summary>One line from the worker, cut up but not yet read. Valid as long as the line is.</summary>
internal readonly ref struct Frame
{
    private static ReadOnlySpan<byte> RequestIdName => "\"request_id\""u8;

    private static ReadOnlySpan<byte> Blanks => " \t\r"u8;

    /// <summary>Null where none could be read, and on events of the subscription.</summary>
    public string? RequestId { get; private init; }

    /// <summary>Null on events.</summary>
    public bool? Success { get; private init; }

    public ReadOnlySpan<byte> Data { get; private init; }

    public ReadOnlySpan<byte> Error { get; private init; }

    public string? Event { get; private init; }

    public long Sequence { get; private init; }

    /// <summary>Cuts a line up; false, with the reason where there is one, for anything that is neither a reply nor an event.</summary>
    public static bool TryParse(ReadOnlySpan<byte> line, out Frame frame, out Exception? problem)
    {
        frame = default;
        problem = null;
        if (line[0] != (byte)'{')
        {
            return false;
        }

        try
        {
            return TryCut(line, out frame);
        }
        catch (Exception unreadable) when (unreadable is JsonException or InvalidOperationException or FormatException)
        {
            problem = unreadable;
            return false;
        }
    }

    /// <summary>Whether a line that is no frame was to be a reply, and no report of progress, which no call waits for.</summary>
    public static bool LooksLikeReply(ReadOnlySpan<byte> line) => line.IndexOf("\"success\""u8) >= 0;

    /// <summary>Finds the next request id in a line that is no frame: cut off, nested too deeply, or no JSON at all.</summary>
    /// <param name="line">Is left at what follows the id.</param>
    /// <param name="requestId">As it stands; the ids of this host need no escapes.</param>
    public static bool TryFindRequestId(ref ReadOnlySpan<byte> line, out string requestId)
    {
        requestId = string.Empty;
        for (int at; (at = line.IndexOf(RequestIdName)) >= 0;)
        {
            line = line[(at + RequestIdName.Length)..];
            var rest = line.TrimStart(Blanks);
            if (rest.StartsWith(":"u8) && rest[1..].TrimStart(Blanks) is var value && value.StartsWith("\""u8)
                && value[1..].IndexOf((byte)'"') is var length and >= 0)
            {
                requestId = Encoding.UTF8.GetString(value.Slice(1, length));
                return true;
            }
        }

        return false;
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

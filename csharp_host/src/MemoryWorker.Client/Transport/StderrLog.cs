using System.Text;
using System.Text.Json;

namespace MemoryWorker.Client.Transport;

/// <summary>Turns stderr into log entries and keeps the last lines. JSON lines carry their level; others are warnings.</summary>
internal sealed class StderrLog(int processId, int tailLines, IWorkerObserver observer) : ILineSink
{
    /// <summary>Longest line that is kept whole.</summary>
    public const int MaxLineBytes = 64 * 1024;

    private const int TailCharacters = 500;

    private readonly Queue<string> _tail = new();

    /// <summary>The last lines, oldest first.</summary>
    public IReadOnlyList<string> Tail
    {
        get
        {
            lock (_tail)
            {
                return _tail.ToArray();
            }
        }
    }

    public void OnLine(ReadOnlySpan<byte> line)
    {
        var text = Encoding.UTF8.GetString(line);
        Keep(text);
        observer.OnLog(Read(line, text));
    }

    public void OnTooLong(ReadOnlySpan<byte> head, long length) =>
        OnLine(Encoding.UTF8.GetBytes($"{Encoding.UTF8.GetString(head)}… ({length} bytes)"));

    public void OnUnfinished(ReadOnlySpan<byte> rest) => OnLine(rest);

    private void Keep(string text)
    {
        lock (_tail)
        {
            _tail.Enqueue(text.Length <= TailCharacters ? text : text[..TailCharacters] + "…");
            while (_tail.Count > tailLines)
            {
                _tail.Dequeue();
            }
        }
    }

    private WorkerLogEntry Read(ReadOnlySpan<byte> line, string text)
    {
        var plain = new WorkerLogEntry { Level = WorkerLogLevel.Warning, Message = text, Line = text, ProcessId = processId };
        if (line[0] != (byte)'{')
        {
            return plain;
        }

        try
        {
            return ReadJson(line, plain);
        }
        catch (Exception problem) when (problem is JsonException or InvalidOperationException)
        {
            return plain;
        }
    }

    private static WorkerLogEntry ReadJson(ReadOnlySpan<byte> line, WorkerLogEntry plain)
    {
        var entry = plain;
        Dictionary<string, string>? fields = null;
        var reader = new Utf8JsonReader(line);
        reader.Read();
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            var level = reader.ValueTextEquals("level"u8);
            var message = reader.ValueTextEquals("message"u8) || reader.ValueTextEquals("event"u8);
            var name = level || message ? string.Empty : reader.GetString()!;
            reader.Read();
            if (level)
            {
                entry = entry with { Level = Level(reader.GetString()) };
            }
            else if (message && reader.TokenType == JsonTokenType.String)
            {
                entry = entry with { Message = reader.GetString()! };
            }
            else if (name is "time" || reader.TokenType == JsonTokenType.Null)
            {
                reader.Skip();
            }
            else
            {
                var text = reader.TokenType == JsonTokenType.String ? reader.GetString()! : JsonElement.ParseValue(ref reader).GetRawText();
                switch (name)
                {
                    case "request_id":
                        entry = entry with { RequestId = text };
                        break;
                    case "traceparent":
                        entry = entry with { TraceParent = text };
                        break;
                    default:
                        (fields ??= [])[name] = text;
                        break;
                }
            }
        }

        return fields is null ? entry : entry with { Fields = fields };
    }

    private static WorkerLogLevel Level(string? name) => name?.ToUpperInvariant() switch
    {
        "DEBUG" or "TRACE" => WorkerLogLevel.Debug,
        "INFO" => WorkerLogLevel.Information,
        "ERROR" => WorkerLogLevel.Error,
        "CRITICAL" or "FATAL" => WorkerLogLevel.Critical,
        _ => WorkerLogLevel.Warning,
    };
}

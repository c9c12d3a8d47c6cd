using System.Buffers;
using System.Collections.Concurrent;
using System.Text.Encodings.Web;
using System.Text.Json;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client.Transport;

/// <summary>One encoded request line in a buffer that is used again.</summary>
internal sealed class RequestFrame
{
    private const int KeptBytes = 64 * 1024;
    private const int Kept = 64;

    private static readonly ConcurrentQueue<RequestFrame> Pool = new();

    // The line goes to a pipe, not into a web page: letters may stand as they are.
    private static readonly JsonWriterOptions Plain =
        new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping, SkipValidation = true };

    private readonly ArrayBufferWriter<byte> _bytes = new(512);
    private readonly Utf8JsonWriter _writer;

    private RequestFrame() => _writer = new Utf8JsonWriter(_bytes, Plain);

    public ReadOnlySpan<byte> Bytes => _bytes.WrittenSpan;

    public int Length => _bytes.WrittenCount;

    public static RequestFrame Encode<TRequest>(string requestId, string action, TRequest data, RequestMeta meta)
        where TRequest : class, IWireRecord<TRequest>
    {
        var frame = Pool.TryDequeue(out var used) ? used : new RequestFrame();
        frame.Write(requestId, action, data, meta);
        return frame;
    }

    /// <summary>Hands the buffer back; the frame must not be used afterwards.</summary>
    public void Release()
    {
        if (_bytes.Capacity <= KeptBytes && Pool.Count < Kept)
        {
            _bytes.ResetWrittenCount();
            Pool.Enqueue(this);
        }
    }

    private void Write<TRequest>(string requestId, string action, TRequest data, RequestMeta meta)
        where TRequest : class, IWireRecord<TRequest>
    {
        _writer.Reset(_bytes);
        _writer.WriteStartObject();
        _writer.WriteString("request_id"u8, requestId);
        _writer.WriteString("action"u8, action);
        _writer.WritePropertyName("data"u8);
        data.Write(_writer);
        if (!meta.IsEmpty)
        {
            WriteMeta(meta);
        }

        _writer.WriteEndObject();
        _writer.Flush();
        _bytes.GetSpan(1)[0] = (byte)'\n';
        _bytes.Advance(1);
    }

    private void WriteMeta(RequestMeta meta)
    {
        _writer.WriteStartObject("meta"u8);
        if (meta.DeadlineMs is { } deadline)
        {
            _writer.WriteNumber("deadline_ms"u8, deadline);
        }

        if (meta.Progress)
        {
            _writer.WriteBoolean("progress"u8, true);
        }

        if (meta.TraceParent is { } traceParent)
        {
            _writer.WriteString("traceparent"u8, traceParent);
        }

        _writer.WriteEndObject();
    }
}

namespace MemoryWorker.Client.Transport;

/// <summary>What a framer hands its lines to, one at a time.</summary>
internal interface ILineSink
{
    /// <summary>A whole line without its end; valid only during the call.</summary>
    void OnLine(ReadOnlySpan<byte> line);

    /// <summary>A line beyond the limit, of which only the head is left.</summary>
    void OnTooLong(ReadOnlySpan<byte> head, long length);

    /// <summary>What lay after the last line end when the stream ended.</summary>
    void OnUnfinished(ReadOnlySpan<byte> rest);
}

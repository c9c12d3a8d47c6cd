namespace MemoryWorker.Client.Transport;

/// <summary>Cuts bytes into lines: LF or CRLF, a leading byte order mark and blank lines ignored, length limited.</summary>
internal sealed class LineFramer(ILineSink sink, int maxLineBytes)
{
    private const int InitialBytes = 64 * 1024;
    private const int HeadBytes = 256;

    private byte[] _buffer = new byte[InitialBytes];
    private int _start;
    private int _end;
    private int _scanned;
    private long _discarded;
    private byte[]? _head;
    private bool _begun;

    /// <summary>Room for the next read.</summary>
    public Memory<byte> GetMemory()
    {
        if (_start == _end)
        {
            _start = _end = _scanned = 0;
            if (_buffer.Length > 16 * InitialBytes)
            {
                _buffer = new byte[InitialBytes];
            }
        }
        else if (_end == _buffer.Length)
        {
            MakeRoom();
        }

        return _buffer.AsMemory(_end);
    }

    /// <summary>Takes what was read into <see cref="GetMemory"/> and hands out the lines that it completes.</summary>
    public void Advance(int count)
    {
        _end += count;
        while (true)
        {
            var found = _buffer.AsSpan(_scanned, _end - _scanned).IndexOf((byte)'\n');
            if (found < 0)
            {
                _scanned = _end;
                break;
            }

            var end = _scanned + found;
            Hand(_buffer.AsSpan(_start, end - _start));
            _start = _scanned = end + 1;
        }

        if (_end - _start > maxLineBytes)
        {
            _head ??= _buffer.AsSpan(_start, HeadBytes).ToArray();
            _discarded += _end - _start;
            _start = _end;
        }
    }

    /// <summary>Takes the end of the stream.</summary>
    public void Complete()
    {
        var rest = _head ?? _buffer.AsSpan(_start, _end - _start);
        if (!rest.IsEmpty)
        {
            sink.OnUnfinished(rest);
        }
    }

    private void Hand(ReadOnlySpan<byte> line)
    {
        if (_head is { } head)
        {
            _head = null;
            sink.OnTooLong(head, _discarded + line.Length);
            _discarded = 0;
            return;
        }

        if (!_begun)
        {
            _begun = true;
            line = line.StartsWith("\uFEFF"u8) ? line[3..] : line;
        }

        line = line.TrimEnd((byte)'\r');
        if (line.Length > maxLineBytes)
        {
            sink.OnTooLong(line[..HeadBytes], line.Length);
        }
        else if (!line.Trim(" \t"u8).IsEmpty)
        {
            sink.OnLine(line);
        }
    }

    private void MakeRoom()
    {
        var kept = _end - _start;
        var target = kept > _buffer.Length / 2 ? new byte[_buffer.Length * 2L] : _buffer;
        _buffer.AsSpan(_start, kept).CopyTo(target);
        _scanned -= _start;
        _start = 0;
        _end = kept;
        _buffer = target;
    }
}

using System.Buffers;
using System.Collections.Concurrent;

namespace MemoryWorker.Client.Transport;

/// <summary>Writes whole lines from any number of callers, in one write where several wait. Nobody blocks.</summary>
internal sealed class RequestWriter(Stream stream, Action failed, CancellationToken stopping)
{
    private const int BatchBytes = 256 * 1024;
    private const int InlineBatches = 8;

    private readonly ConcurrentQueue<(PendingCall Call, RequestFrame Frame)> _queue = new();
    private ArrayBufferWriter<byte> _batch = new(4096);
    private int _queued;

    /// <summary>Queues a line; it is skipped if the call is withdrawn before its first byte is written.</summary>
    public void Enqueue(PendingCall call, RequestFrame frame)
    {
        _queue.Enqueue((call, frame));
        if (Interlocked.Increment(ref _queued) == 1)
        {
            _ = FlushAsync(); // Whoever finds the queue empty writes for all that come meanwhile.
        }
    }

    private async Task FlushAsync()
    {
        try
        {
            int taken, batches = 0;
            do
            {
                if (++batches == InlineBatches)
                {
                    await Task.Yield(); // The caller has written enough for others; its own reply may be there.
                }

                taken = Collect();
                if (_batch.WrittenCount > 0)
                {
                    await stream.WriteAsync(_batch.WrittenMemory, stopping).ConfigureAwait(false);
                    await stream.FlushAsync(stopping).ConfigureAwait(false); // On Windows this stream has a buffer.
                }
            }
            while (Interlocked.Add(ref _queued, -taken) != 0);
        }
        catch (Exception problem) when (problem is IOException or OperationCanceledException or ObjectDisposedException)
        {
            failed(); // _queued stays above 0, so that nobody writes again.
        }
    }

    private int Collect()
    {
        var taken = 0;
        if (_batch.Capacity > 4 * BatchBytes)
        {
            _batch = new(4096);
        }

        _batch.ResetWrittenCount();
        while (_batch.WrittenCount < BatchBytes && _queue.TryDequeue(out var next))
        {
            taken++;
            if (next.Call.TryBeginWrite())
            {
                _batch.Write(next.Frame.Bytes);
            }

            next.Frame.Release();
        }

        return taken;
    }
}

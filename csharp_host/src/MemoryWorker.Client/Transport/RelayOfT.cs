using System.Threading.Channels;

namespace MemoryWorker.Client.Transport;

/// <summary>
/// Calls a handler of the host in order and off the readers of the pipes. Nothing waits for one that hangs: it may be
/// waiting for the thread that waits for the worker.
/// </summary>
internal sealed class Relay<T> : IProgress<T>
{
    /// <summary>A handler that takes longer for one item is not waited for any further.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(1);

    private readonly Channel<T> _items;
    private readonly TimeProvider _clock;
    private readonly Task _relaying;

    private volatile bool _closed;
    private int _handled;

    /// <param name="handle">What to call; does not throw.</param>
    /// <param name="capacity">Items that may wait; beyond it the oldest are lost.</param>
    /// <param name="clock">Of the wait for the handler.</param>
    public Relay(Action<T> handle, int capacity, TimeProvider clock)
    {
        _items = Channel.CreateBounded<T>(
            new BoundedChannelOptions(capacity) { FullMode = BoundedChannelFullMode.DropOldest, SingleReader = true });
        _clock = clock;
        _relaying = RelayAsync(handle);
    }

    public void Report(T value) => _items.Writer.TryWrite(value);

    /// <summary>
    /// Takes no more, and waits for what there is to be handled, until the handler hangs or the token is cancelled. Does
    /// not throw.
    /// </summary>
    public async Task DrainAsync(CancellationToken cancellationToken)
    {
        _items.Writer.TryComplete();
        for (var before = -1; !_relaying.IsCompleted && before != Volatile.Read(ref _handled);)
        {
            before = Volatile.Read(ref _handled);
            await Task.WhenAny(_relaying, Task.Delay(Patience, _clock, cancellationToken)).ConfigureAwait(false);
            if (cancellationToken.IsCancellationRequested)
            {
                break;
            }
        }
    }

    /// <summary>Begins no call of the handler any more.</summary>
    public void Close()
    {
        _closed = true;
        _items.Writer.TryComplete();
    }

    private async Task RelayAsync(Action<T> handle)
    {
        await foreach (var item in _items.Reader.ReadAllAsync().ConfigureAwait(false))
        {
            if (_closed)
            {
                return;
            }

            handle(item);
            Interlocked.Increment(ref _handled);
        }
    }
}

using System.Threading.Channels;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client.Transport;

/// <summary>
/// Calls a progress handler in order and off the reader. The end of the call waits for a handler that keeps up, not
/// for one that hangs: it may be waiting for the thread that waits for the call.
/// </summary>
internal sealed class ProgressRelay : IProgress<ProgressData>
{
    /// <summary>A handler that takes longer for one report does not delay the end of its call any further.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(1);

    private readonly Channel<ProgressData> _reports =
        Channel.CreateUnbounded<ProgressData>(new UnboundedChannelOptions { SingleReader = true });

    private readonly TimeProvider _clock;
    private readonly Task _relaying;

    private volatile bool _closed;
    private int _handled;

    /// <param name="handler">Whom to call.</param>
    /// <param name="failed">Told what the handler throws; the reports that follow still reach it.</param>
    /// <param name="clock">Of the wait for it.</param>
    public ProgressRelay(IProgress<ProgressData> handler, Action<Exception> failed, TimeProvider clock)
    {
        _clock = clock;
        _relaying = RelayAsync(handler, failed);
    }

    public void Report(ProgressData value) => _reports.Writer.TryWrite(value);

    /// <summary>Waits for what was reported to be handled, until the handler hangs or the token is cancelled. Does not throw.</summary>
    public async Task DrainAsync(CancellationToken cancellationToken)
    {
        _reports.Writer.TryComplete();
        for (var before = -1; !_relaying.IsCompleted && before != Volatile.Read(ref _handled) && !cancellationToken.IsCancellationRequested;)
        {
            before = Volatile.Read(ref _handled);
            var patience = Task.Delay(Patience, _clock, cancellationToken);
            await Task.WhenAny(_relaying, patience).ConfigureAwait(false);
        }
    }

    /// <summary>The call has ended: no report is begun any more.</summary>
    public void Close()
    {
        _closed = true;
        _reports.Writer.TryComplete();
    }

    private async Task RelayAsync(IProgress<ProgressData> handler, Action<Exception> failed)
    {
        await foreach (var report in _reports.Reader.ReadAllAsync().ConfigureAwait(false))
        {
            if (_closed)
            {
                return;
            }

            try
            {
                handler.Report(report);
            }
            catch (Exception problem)
            {
                failed(problem);
            }

            Interlocked.Increment(ref _handled);
        }
    }
}

using System.Threading.Channels;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client.Transport;

/// <summary>Calls a progress handler in order and off the reader, so that a slow one delays its own call only.</summary>
internal sealed class ProgressRelay : IProgress<ProgressData>
{
    private readonly Channel<ProgressData> _reports =
        Channel.CreateUnbounded<ProgressData>(new UnboundedChannelOptions { SingleReader = true });

    private readonly Task _relaying;

    public ProgressRelay(IProgress<ProgressData> handler) => _relaying = RelayAsync(handler);

    public void Report(ProgressData value) => _reports.Writer.TryWrite(value);

    /// <summary>Completes when all that was reported has been handled; throws what the handler threw.</summary>
    public Task CompleteAsync()
    {
        _reports.Writer.TryComplete();
        return _relaying;
    }

    private async Task RelayAsync(IProgress<ProgressData> handler)
    {
        await foreach (var report in _reports.Reader.ReadAllAsync().ConfigureAwait(false))
        {
            handler.Report(report);
        }
    }
}

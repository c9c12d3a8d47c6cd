using System.Runtime.CompilerServices;
using System.Threading.Channels;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>The readers of events, each with its own numbers.</summary>
internal sealed class EventReaders
{
    private readonly List<(Channel<WorkerEvent> Channel, HashSet<EventName> Wanted)> _readers = [];

    /// <summary>Tells whether anyone reads these events now.</summary>
    public bool Wants(EventName name)
    {
        lock (_readers)
        {
            return _readers.Any(one => one.Wanted.Contains(name));
        }
    }

    public void Publish(WorkerEvent one, int processId)
    {
        lock (_readers)
        {
            foreach (var (channel, wanted) in _readers)
            {
                if (wanted.Contains(one.Name))
                {
                    channel.Writer.TryWrite(one with { ProcessId = processId });
                }
            }
        }
    }

    public async IAsyncEnumerable<WorkerEvent> ReadAsync(
        IReadOnlyCollection<EventName> events,
        Func<Action<WorkerEvent>, IDisposable>? tick,
        [EnumeratorCancellation] CancellationToken cancellationToken)
    {
        var reader = (Channel: Channel.CreateUnbounded<WorkerEvent>(), Wanted: events.ToHashSet());
        lock (_readers)
        {
            _readers.Add(reader);
        }

        using var ticking = tick?.Invoke(one => reader.Channel.Writer.TryWrite(one));
        try
        {
            var sequence = 0L;
            await foreach (var one in reader.Channel.Reader.ReadAllAsync(cancellationToken).ConfigureAwait(false))
            {
                yield return one with { Sequence = ++sequence };
            }
        }
        finally
        {
            lock (_readers)
            {
                _readers.Remove(reader);
            }
        }
    }

    public void Complete()
    {
        lock (_readers)
        {
            foreach (var (channel, _) in _readers)
            {
                channel.Writer.TryComplete(new ObjectDisposedException(nameof(InMemoryWorker)));
            }
        }
    }
}

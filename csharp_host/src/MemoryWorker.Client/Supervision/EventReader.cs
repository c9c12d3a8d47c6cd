using System.Threading.Channels;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>One reader's events, numbered for it alone. Offered to by one thread at a time.</summary>
internal sealed class EventReader(IReadOnlyCollection<EventName> names, TimeSpan? figuresEvery)
{
    private const int Capacity = 1024;

    private readonly Channel<WorkerEvent> _events = Channel.CreateBounded<WorkerEvent>(
        new BoundedChannelOptions(Capacity) { FullMode = BoundedChannelFullMode.DropOldest, SingleReader = true });

    private long _offered;

    public IReadOnlySet<EventName> Names { get; } = names.ToHashSet();

    /// <summary>How often it wants figures, if they are among the names.</summary>
    public TimeSpan FiguresEvery { get; } = figuresEvery ?? TimeSpan.FromMilliseconds(WireContract.FiguresEveryMs);

    public ChannelReader<WorkerEvent> Events => _events.Reader;

    public void Offer(WorkerEvent one)
    {
        if (Names.Contains(one.Name))
        {
            _events.Writer.TryWrite(one with { Sequence = ++_offered });
        }
    }

    public void Complete(Exception problem) => _events.Writer.TryComplete(problem);
}

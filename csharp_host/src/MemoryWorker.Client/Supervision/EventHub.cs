using System.Threading.Channels;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Who reads which events. A slow reader loses its oldest events and delays nobody.</summary>
internal sealed class EventHub
{
    private const int Capacity = 1024;

    private readonly List<Reader> _readers = [];

    public sealed class Reader(IReadOnlyCollection<EventName> names)
    {
        private readonly Channel<WorkerEvent> _events = Channel.CreateBounded<WorkerEvent>(
            new BoundedChannelOptions(Capacity) { FullMode = BoundedChannelFullMode.DropOldest, SingleReader = true });

        public HashSet<EventName> Names { get; } = [.. names];

        public ChannelReader<WorkerEvent> Events => _events.Reader;

        public void Offer(WorkerEvent one)
        {
            if (Names.Contains(NameOf(one)))
            {
                _events.Writer.TryWrite(one);
            }
        }

        public void Complete(Exception problem) => _events.Writer.TryComplete(problem);

        private static EventName NameOf(WorkerEvent one) => one switch
        {
            PressureChangedEvent => EventName.MemoryPressureChanged,
            ExhaustionForecastEvent => EventName.MemoryExhaustionForecast,
            BudgetChangedEvent => EventName.MemoryBudgetChanged,
            LeakSuspectedEvent => EventName.MemoryLeakSuspected,
            OptimizedEvent => EventName.MemoryOptimized,
            AllocationExpiredEvent => EventName.MemoryAllocationExpired,
            ModelUnloadedEvent => EventName.MemoryModelUnloaded,
            UnloadRequestedEvent => EventName.MemoryUnloadRequested,
            DeviceRecoveredEvent => EventName.DeviceRecovered,
            ContentsDisplacedEvent => EventName.DeviceContentsDisplaced,
            _ => EventName.DeviceLost,
        };
    }

    /// <summary>All that the worker is to be asked for, in a stable order.</summary>
    public IReadOnlyList<EventName> Wanted
    {
        get
        {
            lock (_readers)
            {
                return _readers.SelectMany(one => one.Names).Distinct().Order().ToList();
            }
        }
    }

    public Reader Add(IReadOnlyCollection<EventName> names)
    {
        var reader = new Reader(names);
        lock (_readers)
        {
            _readers.Add(reader);
        }

        return reader;
    }

    public void Remove(Reader reader)
    {
        lock (_readers)
        {
            _readers.Remove(reader);
        }
    }

    public void Publish(WorkerEvent one)
    {
        lock (_readers)
        {
            _readers.ForEach(reader => reader.Offer(one));
        }
    }

    public void Complete(Exception problem)
    {
        lock (_readers)
        {
            _readers.ForEach(reader => reader.Complete(problem));
        }
    }
}

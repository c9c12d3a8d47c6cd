using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Who reads which events. A slow reader loses its oldest events and delays no other.</summary>
internal sealed class EventHub
{
    private readonly List<EventReader> _readers = [];

    /// <summary>All that the worker is to be asked for, in a stable order.</summary>
    public IReadOnlyList<EventName> Wanted
    {
        get
        {
            lock (_readers)
            {
                return _readers.SelectMany(one => one.Names).Where(one => one != EventName.Unknown).Distinct().Order().ToList();
            }
        }
    }

    public EventReader Add(IReadOnlyCollection<EventName> names)
    {
        var reader = new EventReader(names);
        lock (_readers)
        {
            _readers.Add(reader);
        }

        return reader;
    }

    public void Remove(EventReader reader)
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

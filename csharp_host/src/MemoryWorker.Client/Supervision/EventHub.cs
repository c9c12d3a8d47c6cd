using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Who reads which events. A slow reader loses its oldest events and delays no other.</summary>
internal sealed class EventHub
{
    private readonly List<EventReader> _readers = [];

    /// <summary>All that the worker is to be asked for.</summary>
    public WantedEvents Wanted
    {
        get
        {
            lock (_readers)
            {
                var names = _readers.SelectMany(one => one.Names).Where(one => one != EventName.Unknown).Distinct().Order().ToList();
                var ofFigures = _readers.Where(one => one.Names.Contains(EventName.MemoryFigures));
                return new(names, ofFigures.Min(one => (TimeSpan?)one.FiguresEvery));
            }
        }
    }

    public EventReader Add(IReadOnlyCollection<EventName> names, TimeSpan? figuresEvery)
    {
        var reader = new EventReader(names, figuresEvery);
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

    /// <summary>Ends all readers, or those that are chosen, with a problem.</summary>
    public void Complete(Exception problem, Predicate<EventReader>? chosen = null)
    {
        lock (_readers)
        {
            _readers.FindAll(chosen ?? (_ => true)).ForEach(reader => reader.Complete(problem));
        }
    }
}

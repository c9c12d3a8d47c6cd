using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>What the worker is to be asked for: the names in a stable order, and how often figures, where one of them is.</summary>
internal sealed record WantedEvents(IReadOnlyList<EventName> Names, TimeSpan? FiguresEvery)
{
    public bool IsSameAs(WantedEvents other) => Names.SequenceEqual(other.Names) && FiguresEvery == other.FiguresEvery;

    public WantedEvents Without(IReadOnlyCollection<EventName> names) => this with { Names = Names.Except(names).ToList() };

    /// <summary>The request. A worker that has no figures does not know how often either, and is not told.</summary>
    public SubscribeParams ToWire() => Names.Contains(EventName.MemoryFigures) && FiguresEvery is { } every
        ? new() { Events = Names, FiguresEveryMs = (long)every.TotalMilliseconds }
        : new() { Events = Names };
}

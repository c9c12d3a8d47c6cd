using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>Entries that are found by what their vectors are near to. Their dimensions are an option's, or the first one's.</summary>
internal sealed class HeldVectors(string name, TimeProvider clock) : HeldKept(name, StoreKind.Vectors, clock)
{
    protected override long? DefaultEntries => 5_000;

    private VectorMetric Metric => Options.Metric ?? VectorMetric.Cosine;

    /// <summary>Of those that are there; null for none.</summary>
    private long? Dimensions => Entries.Values.FirstOrDefault()?.Vector?.Dimensions;

    public override StoreOptions Resolved(StoreOptions given)
    {
        Refuse("preset", given.Preset is not null);
        return given;
    }

    public override void Configure(StoreOptions given)
    {
        Keep("dimensions", Dimensions is { } dimensions && given.Dimensions is { } asked && asked != dimensions, $"{Dimensions}");
        Keep("metric", Dimensions is not null && given.Metric is { } metric && metric != Metric, Metric.ToWord());
        base.Configure(given);
    }

    public override IReadOnlyList<(HeldEntry Entry, double Score)> Search(StoreSearchParams asked)
    {
        if (asked.Vector is not { } vector)
        {
            throw NotSearched(
                "a store of kind vectors is searched by a vector: a model makes it of the text; those of kinds preferences and documents "
                + "are searched by a text");
        }

        if (Dimensions is { } dimensions)
        {
            Check(vector, dimensions, StoreActions.Search);
        }

        return Nearest(Having(asked.Tags).Select(one => (one, one.Vector!.Score(vector, Metric))), asked.Limit);
    }

    protected override StoredVector Vector(IReadOnlyList<double>? given)
    {
        var vector = given ?? throw InMemoryLedger.Invalid(
            StoreActions.Put, "data.vector", "a store of kind vectors keeps one with each entry");
        Check(vector, Dimensions ?? Options.Dimensions ?? vector.Count, StoreActions.Put);
        return new(vector);
    }

    private void Keep(string option, bool isOther, string value)
    {
        if (isOther)
        {
            throw InMemoryLedger.Invalid(
                StoreActions.Open, $"data.options.{option}", $"'{Name}' has vectors of {option} {value}: clear it first");
        }
    }

    private void Check(IReadOnlyList<double> vector, long dimensions, string action)
    {
        if (StoredVector.Broken(vector, dimensions, Metric) is { } broken)
        {
            throw InMemoryLedger.Invalid(action, "data.vector", broken);
        }
    }
}

using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>A vector as the worker keeps it: in steps, of which its largest component has 32,767.</summary>
internal sealed record StoredVector
{
    /// <summary>What finding a vector by its key takes beside its row.</summary>
    private const long PlaceBytes = 192;

    private const double Largest = 1e30;
    private const double Smallest = 1e-30;
    private const double Steps = 32_767;

    private readonly double _step;
    private readonly short[] _values;

    public StoredVector(IReadOnlyList<double> vector)
    {
        _step = vector.Max(Math.Abs) is var top && top > Smallest ? (float)top / Steps : 0;
        _values = [.. vector.Select(one => _step == 0 ? default : (short)Math.Round(one / _step))];
    }

    /// <summary>Its row, with its largest component and its length.</summary>
    public long RowBytes => 8 + (2L * _values.Length);

    /// <summary>What an entry takes for it.</summary>
    public long BesideBytes => RowBytes + PlaceBytes;

    public int Dimensions => _values.Length;

    /// <summary>Returns what is wrong with a vector; null where nothing is.</summary>
    public static string? Broken(IReadOnlyList<double> vector, long dimensions, VectorMetric metric)
    {
        if (vector.Count != dimensions)
        {
            return $"it has {vector.Count} dimensions, and the store's vectors have {dimensions}";
        }

        var top = vector.Max(Math.Abs);
        return !(top <= Largest) ? "it has a component that is no number, infinite, or beyond 1e+30"
            : metric == VectorMetric.Cosine && top <= Smallest
                ? "all of its components are zero, so it has no direction, which cosine compares"
            : null;
    }

    /// <summary>How near it is: the higher, the nearer.</summary>
    public double Score(IReadOnlyList<double> vector, VectorMetric metric)
    {
        var own = _values.Select(one => one * _step).ToArray();
        return metric switch
        {
            VectorMetric.L2 => -Length([.. own.Zip(vector, (one, other) => one - other)]),
            VectorMetric.Dot => Dot(),
            _ => Dot() / (Length(own) * Length(vector)),
        };

        double Dot() => own.Zip(vector, (one, other) => one * other).Sum();
    }

    private static double Length(IReadOnlyList<double> vector) => Math.Sqrt(vector.Sum(one => one * one));
}

namespace MemoryWorker.Client;

/// <summary>Shared memory with a shape and a type: rows in C order, nothing in between. A view; it owns nothing.</summary>
/// <typeparam name="T">One element, such as <see cref="float"/>, <see cref="Half"/> or, for <c>BF16</c>, <see cref="ushort"/>.</typeparam>
public sealed unsafe class SharedTensor<T>
    where T : unmanaged
{
    private readonly SharedBuffer _buffer;
    private readonly long _offset;

    internal SharedTensor(SharedBuffer buffer, IReadOnlyList<long> shape, string? dtype, long offset)
    {
        ArgumentNullException.ThrowIfNull(shape);
        TensorTypes.CheckAligned<T>(offset);
        _buffer = buffer;
        _offset = offset;
        DType = TensorTypes.NameOf<T>(dtype);
        Shape = [.. shape];
        try
        {
            Length = Shape.Aggregate(1L, (all, one) => one >= 0 ? checked(all * one) : throw new OverflowException());
            SizeBytes = checked(Length * sizeof(T));
        }
        catch (OverflowException problem)
        {
            throw new ArgumentException(
                $"[{string.Join(", ", Shape)}] is no shape: a dimension is negative, or all of them are more than memory can have",
                nameof(shape),
                problem);
        }
    }

    /// <summary>The element's name as in safetensors: <c>F32</c>, <c>BF16</c>, <c>I64</c>, <c>BOOL</c> …</summary>
    public string DType { get; }

    /// <summary>Dimensions, outermost first; empty for one element.</summary>
    public IReadOnlyList<long> Shape { get; }

    /// <summary>How many elements.</summary>
    public long Length { get; }

    /// <summary>How many bytes.</summary>
    public long SizeBytes { get; }

    /// <summary>All elements in C order.</summary>
    /// <exception cref="InvalidOperationException">It has more than 2,147,483,647 elements: take <see cref="Row"/>.</exception>
    public Span<T> Span => Length <= int.MaxValue
        ? _buffer.AsSpan<T>(_offset, (int)Length)
        : throw new InvalidOperationException($"{Length} elements are more than one span holds; take {nameof(Row)}");

    /// <summary>One element, to be read or assigned. For many of them take <see cref="Row"/> or <see cref="Span"/>.</summary>
    /// <param name="index">A place in each dimension.</param>
    /// <exception cref="ArgumentOutOfRangeException">It lies outside.</exception>
    public ref T this[params long[] index] => ref *(T*)At(index, Shape.Count, out _);

    /// <summary>What lies under the first dimensions' places, in C order: with all but one of them, a row.</summary>
    /// <param name="index">A place in each of the first dimensions.</param>
    /// <exception cref="ArgumentOutOfRangeException">It lies outside.</exception>
    public Span<T> Row(params long[] index)
    {
        var start = At(index, index.Length, out var under);
        return new(start, checked((int)under));
    }

    private byte* At(long[] index, int dimensions, out long under)
    {
        ArgumentNullException.ThrowIfNull(index);
        if (index.Length != dimensions || dimensions > Shape.Count)
        {
            throw new ArgumentOutOfRangeException(
                nameof(index), $"{index.Length} places were given, and [{string.Join(", ", Shape)}] has {Shape.Count} dimensions");
        }

        long place = 0;
        under = Length;
        for (var dimension = 0; dimension < dimensions; dimension++)
        {
            if (index[dimension] < 0 || index[dimension] >= Shape[dimension])
            {
                throw new ArgumentOutOfRangeException(
                    nameof(index), $"[{string.Join(", ", index)}] lies outside of [{string.Join(", ", Shape)}]");
            }

            under /= Shape[dimension];
            place += index[dimension] * under;
        }

        return _buffer.At(_offset + (place * sizeof(T)), under * sizeof(T));
    }
}

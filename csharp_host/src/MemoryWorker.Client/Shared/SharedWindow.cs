using System.Buffers;

namespace MemoryWorker.Client;

/// <summary>A part of shared memory as <see cref="Memory{T}"/>; it owns nothing.</summary>
internal sealed unsafe class SharedWindow(SharedMap map, long offset, int length) : MemoryManager<byte>
{
    public override Span<byte> GetSpan() => new(map.At(offset), length);

    public override MemoryHandle Pin(int elementIndex = 0)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(elementIndex);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(elementIndex, length);
        map.Hold();
        return new(map.At(offset + elementIndex), default, this);
    }

    public override void Unpin() => map.LetGo();

    protected override void Dispose(bool disposing)
    {
    }
}

namespace MemoryWorker.Testing;

/// <summary>What is thrown instead of an answer, and how often still.</summary>
internal sealed class Fault(Func<Exception> make, int times)
{
    public int Left { get; set; } = times;

    public Func<Exception> Make { get; } = make;
}

using System.Text.Json;

namespace MemoryWorker.Testing;

/// <summary>What is thrown instead of an answer, and how often still.</summary>
/// <param name="make">Makes it of the ledger and the request's data.</param>
/// <param name="times">For how many calls.</param>
internal sealed class Fault(Func<InMemoryLedger, JsonElement, Exception> make, int times)
{
    public int Left { get; set; } = times;

    public Func<InMemoryLedger, JsonElement, Exception> Make { get; } = make;
}

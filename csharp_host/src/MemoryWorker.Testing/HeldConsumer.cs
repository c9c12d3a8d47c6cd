using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>A consumer that is registered, and what came of its promises.</summary>
internal sealed class HeldConsumer
{
    public required RegisterConsumerParams Said { get; set; }

    public required FakeDevice Device { get; set; }

    public required long HeldBytes { get; set; }

    /// <summary>What can be had of it, cheapest per byte first.</summary>
    public required List<ConsumerOffer> Offers { get; set; }

    public long? LimitBytes { get; set; }

    /// <summary>Null for one without a lease.</summary>
    public Lease? Lease { get; set; }

    /// <summary>It did not answer, and is let be until then.</summary>
    public DateTimeOffset SilentUntil { get; set; }

    public long ClaimedBytes { get; set; }

    public long ReturnedBytes { get; set; }

    public long? LastReleasedAt { get; set; }

    public string Kind => Said.Kind ?? "host";

    /// <summary>Of the next MiB; null where none of it can be had.</summary>
    public double? PriceMsPerMib => SpareBytes > 0 && Offers.Count > 0 ? Offers[0].CostMs / Offers[0].Bytes * (1 << 20) : null;

    public long SpareBytes => Math.Max(0, HeldBytes - Said.FloorBytes);

    /// <summary>Takes so much from what it holds, and from its offers from the front.</summary>
    public void GiveBack(long bytes)
    {
        HeldBytes = Math.Max(0, HeldBytes - bytes);
        var left = new List<ConsumerOffer>();
        foreach (var offer in Offers)
        {
            var gone = Math.Min(bytes, offer.Bytes);
            bytes -= gone;
            var rest = offer.Bytes - gone;
            if (rest > 0)
            {
                left.Add(new() { Bytes = rest, CostMs = offer.CostMs * rest / offer.Bytes });
            }
        }

        Offers = left;
    }
}

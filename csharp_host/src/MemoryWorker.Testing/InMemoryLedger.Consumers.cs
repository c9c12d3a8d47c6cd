using System.Globalization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

internal sealed partial class InMemoryLedger
{
    private const double MiB = 1 << 20;

    /// <summary>How the names of the worker's own consumers begin.</summary>
    private static readonly string[] OwnConsumers = ["model:", "engine:", "pool:", "external:", "server:"];

    private readonly List<HeldConsumer> _consumers = [];

    private RegisterConsumerResult RegisterConsumer(RegisterConsumerParams asked)
    {
        if (OwnConsumers.Any(prefix => asked.ConsumerId.StartsWith(prefix, StringComparison.Ordinal)))
        {
            throw Invalid(
                MemoryActions.RegisterConsumer, "data.consumer_id", $"'{asked.ConsumerId}' is the name of one of the worker's own consumers");
        }

        var device = asked.DeviceId is { } named ? Device(named, MemoryActions.RegisterConsumer) : Host();
        var one = Find(asked.ConsumerId);
        var isNew = one is null;
        if (one is null)
        {
            one = new HeldConsumer { Said = asked, Device = device, HeldBytes = 0, Offers = [] };
            _consumers.Add(one);
        }

        (one.Said, one.Device, one.HeldBytes, one.Offers) = (asked, device, asked.HeldBytes, [.. asked.Offers]);
        Renew(one);
        return new() { ConsumerId = asked.ConsumerId, Created = isNew, LimitBytes = one.LimitBytes };
    }

    private ReleasedResult Released(ReleasedParams asked)
    {
        var one = Find(asked.ConsumerId) ?? throw Refused(
            ErrorCode.ConsumerNotFound,
            MemoryActions.Released,
            $"no consumer '{asked.ConsumerId}' is registered; memory.register_consumer registers one",
            new Dictionary<string, object?> { ["consumer_id"] = asked.ConsumerId });
        one.GiveBack(asked.Bytes);
        one.SilentUntil = default;
        Renew(one);
        Hear(one, asked.Bytes);
        return new() { ConsumerId = asked.ConsumerId, HeldBytes = one.HeldBytes, LimitBytes = one.LimitBytes };
    }

    private UnregisterConsumerResult UnregisterConsumer(UnregisterConsumerParams asked)
    {
        var one = Find(asked.ConsumerId);
        if (one is not null)
        {
            _consumers.Remove(one);
            Hear(one, 0);
        }

        return new() { ConsumerId = asked.ConsumerId, Existed = one is not null };
    }

    private GetConsumersResult GetConsumers(GetConsumersParams asked)
    {
        var places = Devices(asked.DeviceId, MemoryActions.GetConsumers);
        var found = _consumers.Where(one => places.Contains(one.Device) && (asked.Kind is null || asked.Kind == one.Kind));
        var stores = StoreConsumers().Where(one => places.Contains(Host()) && (asked.Kind is null || asked.Kind == one.Kind));
        return new() { Consumers = [.. found.Select(Status), .. stores] };
    }

    private ConsumerStatus Status(HeldConsumer one) => new()
    {
        ConsumerId = one.Said.ConsumerId,
        Kind = one.Kind,
        DeviceId = one.Device.DeviceId,
        HeldBytes = one.HeldBytes,
        FloorBytes = one.Said.FloorBytes,
        InUseBytes = 0,
        LimitBytes = one.LimitBytes,
        Hits = one.Said.Hits,
        Misses = one.Said.Misses,
        SavedMs = one.Said.SavedMs,
        PriceMsPerMib = one.SpareBytes > 0 && one.Offers.Count > 0 ? one.Offers[0].CostMs / one.Offers[0].Bytes * MiB : null,
        ClaimedBytes = one.ClaimedBytes,
        ReturnedBytes = one.ReturnedBytes,
        LastReleasedMsAgo = one.LastReleasedAt is { } at ? Since(at) : null,
    };

    /// <summary>Where a consumer's memory is that names no device: the worker's own memory, or else the default device.</summary>
    private FakeDevice Host() => devices.FirstOrDefault(one => one.Kind == DeviceKind.Cpu) ?? devices[0];

    private HeldConsumer? Find(string consumerId) => _consumers.Find(one => one.Said.ConsumerId == consumerId);

    private void Renew(HeldConsumer one) =>
        one.Lease = Lease.Of(clock, one.Said.LeaseMs);

    /// <summary>What consumers of a device are asked for so that so much comes back, cheapest per byte first.</summary>
    private List<PlannedRelease> Releases(FakeDevice device, long need)
    {
        var taken = new Dictionary<HeldConsumer, (long Bytes, double CostMs)>();
        if (device.State == DeviceState.Available && readers.Wants(EventName.MemoryReleaseRequested))
        {
            var offers = _consumers
                .Where(one => one.Device == device && one.SilentUntil <= clock.GetUtcNow())
                .SelectMany(one => one.Offers.Select(offer => (Consumer: one, Offer: offer)))
                .Where(one => one.Offer.Bytes > 0)
                .OrderBy(one => one.Offer.CostMs / one.Offer.Bytes);
            foreach (var (consumer, offer) in offers)
            {
                var (bytes, cost) = taken.GetValueOrDefault(consumer);
                var part = Math.Min(Math.Min(offer.Bytes, need), consumer.SpareBytes - bytes);
                if (part > 0)
                {
                    need -= part;
                    taken[consumer] = (bytes + part, cost + (offer.CostMs * part / offer.Bytes));
                }
            }
        }

        return [.. taken.Select(one => new PlannedRelease
        {
            ConsumerId = one.Key.Said.ConsumerId,
            Kind = one.Key.Kind,
            ExpectedBytes = one.Value.Bytes,
            CostMs = one.Value.CostMs,
            Reason = string.Create(
                CultureInfo.InvariantCulture,
                $"{one.Key.Said.ConsumerId}: {one.Value.Bytes / MiB:0.###} MiB at {one.Value.CostMs / one.Value.Bytes * MiB:0.###} ms/MiB"),
        })];
    }
}

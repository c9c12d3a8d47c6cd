using System.Globalization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

internal sealed partial class InMemoryLedger
{
    private const double MiB = 1 << 20;

    /// <summary>The most consumers that a candidate of a plan names of those that would be asked for nothing.</summary>
    private const int MostKeptConsumers = 16;

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
        PriceMsPerMib = one.PriceMsPerMib,
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

    /// <summary>Of the consumers that are asked for nothing the first of as many as are told of, and why; the cheapest first.</summary>
    private List<KeptConsumer> Kept(FakeDevice device, IReadOnlyCollection<string> asked, string? whyNothing, bool isOnDevice = false) =>
    [
        .. _consumers
            .Where(one => one.HeldBytes > 0 && (!isOnDevice || one.Device == device) && !asked.Contains(one.Said.ConsumerId))
            .Select(one => (Consumer: one, WhyFixed: WhyFixed(one, device)))
            .Select(one => (
                one.Consumer,
                PriceMsPerMib: one.WhyFixed is null ? one.Consumer.PriceMsPerMib : null,
                Why: one.WhyFixed ?? whyNothing))
            .OrderBy(one => one.Consumer.Device != device)
            .ThenBy(one => one.PriceMsPerMib ?? double.PositiveInfinity)
            .Take(MostKeptConsumers)
            .Select(one => new KeptConsumer
            {
                ConsumerId = one.Consumer.Said.ConsumerId,
                Kind = one.Consumer.Kind,
                PriceMsPerMib = one.PriceMsPerMib,
                Reason = "stays: " + (one.Why ?? string.Create(
                    CultureInfo.InvariantCulture, $"enough is freed without it, at {one.PriceMsPerMib:0.###} ms/MiB")),
            }),
    ];

    /// <summary>Why nothing can be had of a consumer whatever is needed; null if something can.</summary>
    private string? WhyFixed(HeldConsumer one, FakeDevice device)
    {
        if (one.Device != device)
        {
            return $"it is on {one.Device.DeviceId}, memory is needed on {device.DeviceId}";
        }

        if (!readers.Wants(EventName.MemoryReleaseRequested))
        {
            return $"nobody listens for {EventName.MemoryReleaseRequested.ToWord()}";
        }

        if (one.SilentUntil > clock.GetUtcNow())
        {
            var left = (long)(one.SilentUntil - clock.GetUtcNow()).TotalMilliseconds;
            return $"it did not answer when it was asked, and is asked again in {left} ms";
        }

        if (one.SpareBytes == 0)
        {
            return $"of its {one.HeldBytes} bytes {one.Said.FloorBytes} are its floor and 0 in use";
        }

        return one.Offers.Count == 0 ? "it offers nothing" : null;
    }
}

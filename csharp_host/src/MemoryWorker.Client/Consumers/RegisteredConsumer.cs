using System.Threading.Channels;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>
/// One consumer, called by one at a time and on a thread of the pool, since it may hang; and the limit that it was told last.
/// </summary>
internal sealed class RegisteredConsumer(IMemoryConsumer consumer)
{
    private readonly SemaphoreSlim _turn = new(1);
    private long? _limitBytes;

    public string Id { get; } = consumer.Id;

    /// <summary>Has something in it where it is to be registered now.</summary>
    public Channel<bool> RenewNow { get; } = Channel.CreateBounded<bool>(
        new BoundedChannelOptions(1) { FullMode = BoundedChannelFullMode.DropWrite });

    /// <summary>What it holds, as it is registered; null while it is being asked something else.</summary>
    public async Task<RegisterConsumerParams?> DescribeAsync(TimeSpan lease, CancellationToken cancellationToken)
    {
        if (!await _turn.WaitAsync(0, cancellationToken).ConfigureAwait(false))
        {
            return null;
        }

        try
        {
            var holding = await Task.Run(consumer.Describe, cancellationToken).ConfigureAwait(false);
            return new()
            {
                ConsumerId = Id,
                Kind = holding.Kind,
                DeviceId = holding.DeviceId,
                HeldBytes = holding.HeldBytes,
                FloorBytes = holding.FloorBytes,
                Offers = [.. from one in holding.Offers
                             where one.Bytes > 0 // An empty cache's whole is nothing.
                             select new ConsumerOffer { Bytes = one.Bytes, CostMs = one.Cost.TotalMilliseconds }],
                Hits = holding.Hits,
                Misses = holding.Misses,
                SavedMs = holding.Saved?.TotalMilliseconds,
                Owner = holding.Owner,
                LeaseMs = (long)lease.TotalMilliseconds,
            };
        }
        finally
        {
            _turn.Release();
        }
    }

    public async Task LimitAsync(long? limitBytes, CancellationToken cancellationToken)
    {
        await _turn.WaitAsync(cancellationToken).ConfigureAwait(false);
        try
        {
            await Task.Run(() => Limit(limitBytes), cancellationToken).ConfigureAwait(false);
        }
        finally
        {
            _turn.Release();
        }
    }

    public async Task<long> ReleaseAsync(ReleaseRequestedData asked, CancellationToken cancellationToken)
    {
        await _turn.WaitAsync(cancellationToken).ConfigureAwait(false);
        try
        {
            var request = new MemoryReleaseRequest
            {
                Bytes = asked.Bytes,
                LimitBytes = asked.LimitBytes,
                Reason = asked.Reason,
                Wait = TimeSpan.FromMilliseconds(asked.WaitMs),
            };
            return await Task.Run(ReleaseHereAsync, cancellationToken).ConfigureAwait(false);

            async Task<long> ReleaseHereAsync()
            {
                Limit(asked.LimitBytes); // First, so that what goes does not come back at once.
                return await consumer.ReleaseAsync(request, cancellationToken).ConfigureAwait(false);
            }
        }
        finally
        {
            _turn.Release();
        }
    }

    private void Limit(long? limitBytes)
    {
        if (limitBytes != _limitBytes)
        {
            _limitBytes = limitBytes;
            consumer.LimitChanged(limitBytes);
        }
    }
}

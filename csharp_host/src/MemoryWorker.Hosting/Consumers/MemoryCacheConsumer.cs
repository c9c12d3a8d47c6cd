using MemoryWorker.Client;
using Microsoft.Extensions.Caching.Memory;

namespace MemoryWorker.Hosting;

/// <summary>
/// A <see cref="MemoryCache"/> that gives back what is used least when memory is needed elsewhere. Its entries' sizes are to
/// be their bytes; its options are to have a <see cref="MemoryCacheOptions.SizeLimit"/>, which falls and rises with what the
/// worker grants, and <see cref="MemoryCacheOptions.TrackStatistics"/>.
/// </summary>
public sealed class MemoryCacheConsumer : IMemoryConsumer
{
    private readonly MemoryCache _cache;
    private readonly MemoryCacheOptions _cacheOptions;
    private readonly MemoryCacheConsumerOptions _options;
    private readonly long _sizeLimit;

    /// <summary>Takes a cache in.</summary>
    /// <param name="id">Its name as a consumer.</param>
    /// <param name="cache">Which.</param>
    /// <param name="cacheOptions">The options that it was made with.</param>
    /// <param name="options">What it is worth.</param>
    /// <exception cref="ArgumentException">It has no size limit, or keeps no statistics.</exception>
    public MemoryCacheConsumer(string id, MemoryCache cache, MemoryCacheOptions cacheOptions, MemoryCacheConsumerOptions options)
    {
        ArgumentException.ThrowIfNullOrEmpty(id);
        ArgumentNullException.ThrowIfNull(cache);
        ArgumentNullException.ThrowIfNull(cacheOptions);
        ArgumentNullException.ThrowIfNull(options);
        ArgumentOutOfRangeException.ThrowIfLessThan(options.RebuildTime, TimeSpan.Zero, nameof(options.RebuildTime));
        ArgumentOutOfRangeException.ThrowIfNegative(options.FloorBytes, nameof(options.FloorBytes));
        if (cacheOptions.SizeLimit is not { } limit || cache.GetCurrentStatistics() is null)
        {
            throw new ArgumentException(
                $"the cache '{id}' does not know its bytes: set {nameof(MemoryCacheOptions.SizeLimit)} and "
                    + $"{nameof(MemoryCacheOptions.TrackStatistics)}, and give each entry its Size in bytes",
                nameof(cacheOptions));
        }

        Id = id;
        _cache = cache;
        _cacheOptions = cacheOptions;
        _options = options;
        _sizeLimit = limit;
    }

    /// <inheritdoc/>
    public string Id { get; }

    private MemoryCacheStatistics Statistics => _cache.GetCurrentStatistics()!;

    private long HeldBytes => Statistics.CurrentEstimatedSize ?? 0;

    /// <inheritdoc/>
    public MemoryHolding Describe()
    {
        var found = Statistics;
        var held = found.CurrentEstimatedSize ?? 0;
        var spare = Math.Max(0, held - _options.FloorBytes);
        var entries = held == 0 ? 0 : found.CurrentEntryCount * ((double)spare / held);
        return new()
        {
            HeldBytes = held,
            FloorBytes = Math.Min(held, _options.FloorBytes),
            Offers = spare == 0 ? [] : [new(spare, entries * _options.RebuildTime)],
            Kind = _options.Kind,
            Hits = found.TotalHits,
            Misses = found.TotalMisses,
            Saved = found.TotalHits * _options.RebuildTime,
        };
    }

    /// <inheritdoc/>
    public ValueTask<long> ReleaseAsync(MemoryReleaseRequest request, CancellationToken cancellationToken)
    {
        ArgumentNullException.ThrowIfNull(request);
        var before = HeldBytes;
        var goal = Math.Max(_options.FloorBytes, before - request.Bytes);
        for (var held = before; held > goal && !cancellationToken.IsCancellationRequested;)
        {
            // By count, the least used first: what goes may have other sizes than what stays.
            var share = Math.Max((double)(held - goal) / held, 1.001 / Math.Max(1, _cache.Count));
            _cache.Compact(Math.Min(1, share));
            if (HeldBytes is var now && now >= held)
            {
                break; // What is left is never to be removed.
            }
            else
            {
                held = now;
            }
        }

        var released = Math.Max(0, before - HeldBytes);
        if (released > 0 && _options.CollectGarbage)
        {
            GC.Collect(GC.MaxGeneration, GCCollectionMode.Aggressive, blocking: true, compacting: true);
        }

        return new(released);
    }

    /// <inheritdoc/>
    public void LimitChanged(long? limitBytes) =>
        _cacheOptions.SizeLimit = Math.Min(_sizeLimit, Math.Max(_options.FloorBytes, limitBytes ?? _sizeLimit));
}

namespace MemoryWorker.Client;

/// <summary>
/// Memory of this process that can be given back, such as a cache. It says what it holds and what rebuilding that would
/// cost; the worker asks it where that is cheaper than unloading a model. Called by <see cref="MemoryConsumers"/>, one call at
/// a time.
/// </summary>
public interface IMemoryConsumer
{
    /// <summary>Its name among this worker's consumers, the same for as long as it lives; none that begins with <c>model:</c>, <c>engine:</c>, <c>pool:</c>, <c>external:</c> or <c>server:</c>.</summary>
    string Id { get; }

    /// <summary>What it holds at this moment. Asked often, so it should not take long.</summary>
    MemoryHolding Describe();

    /// <summary>Gives memory back to the system, as much of it as was asked for or can go.</summary>
    /// <param name="request">How much, why, and what it may hold from then on.</param>
    /// <param name="cancellationToken">Cancelled when the host ends, not when <see cref="MemoryReleaseRequest.Wait"/> is over: a late answer counts, too.</param>
    /// <returns>Bytes that were given back; 0 for none. The worker measures for itself what came back to the system.</returns>
    ValueTask<long> ReleaseAsync(MemoryReleaseRequest request, CancellationToken cancellationToken);

    /// <summary>The most that it is to hold is another; it falls under pressure, before a release, and rises afterwards.</summary>
    /// <param name="limitBytes">Null for no limit.</param>
    void LimitChanged(long? limitBytes)
    {
    }
}

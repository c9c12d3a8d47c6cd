namespace MemoryWorker.Testing;

/// <summary>A model that an <see cref="InMemoryWorker"/> has in its configuration.</summary>
/// <param name="ModelId">Its name.</param>
/// <param name="SizeBytes">What it takes once it is loaded.</param>
/// <param name="DeviceId">Where it is loaded if the caller does not say; null for the first device.</param>
public sealed record FakeModel(string ModelId, long SizeBytes, string? DeviceId = null)
{
    /// <summary>It is never unloaded to make headroom for something else.</summary>
    public bool Pinned { get; init; }
}

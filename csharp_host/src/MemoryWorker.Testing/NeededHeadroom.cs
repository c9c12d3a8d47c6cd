using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>What has to go on a device for so many bytes.</summary>
/// <param name="MissingBytes">How much lacks now.</param>
/// <param name="CeilingBytes">How much all that may go would free.</param>
/// <param name="Releases">What consumers are asked for.</param>
/// <param name="Victims">The models that go after it.</param>
/// <param name="Kept">Consumers that are asked for nothing, and why.</param>
internal sealed record NeededHeadroom(
    long MissingBytes,
    long CeilingBytes,
    IReadOnlyList<PlannedRelease> Releases,
    IReadOnlyList<LoadedModel> Victims,
    IReadOnlyList<KeptConsumer> Kept)
{
    public bool Suffices => MissingBytes <= CeilingBytes;
}

using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>What consumers gave back before an action is carried out.</summary>
/// <param name="Released">Each with its word, and what came of it.</param>
/// <param name="LevelsBefore">The devices' levels before they were asked.</param>
internal sealed record Given(
    IReadOnlyList<ReleasedMemory> Released, IReadOnlyDictionary<FakeDevice, PressureCategory> LevelsBefore);

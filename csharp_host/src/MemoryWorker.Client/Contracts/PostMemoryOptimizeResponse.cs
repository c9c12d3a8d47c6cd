using System.Text.Json.Serialization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>What optimizing did.</summary>
/// <param name="ReturnedBytes">As the system measured it; null if unknown.</param>
/// <param name="Steps">Each with what was expected and what came back.</param>
/// <param name="PressureBefore">The level before.</param>
/// <param name="PressureAfter">The level after.</param>
public sealed record PostMemoryOptimizeResponse(
    long? ReturnedBytes, IReadOnlyList<OptimizeStep> Steps, PressureLevel PressureBefore, PressureLevel PressureAfter)
{
    /// <summary>Always true: a refusal is a <see cref="WorkerRequestException"/>.</summary>
    public bool Success => true;

    /// <summary>Text of each word that this library does not know, by its name on the wire; null where there is none.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyDictionary<string, string>? UnknownWords { get; init; }

    internal static PostMemoryOptimizeResponse From(OptimizeResult wire) =>
        new(wire.ReturnedBytes, wire.Steps, wire.PressureBefore, wire.PressureAfter) { UnknownWords = wire.UnknownWords };
}

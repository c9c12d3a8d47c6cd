using System.Text.Json.Serialization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>What optimizing did.</summary>
public sealed record PostMemoryOptimizeResponse
{
    /// <summary>As the system measured it; null if unknown.</summary>
    public long? ReturnedBytes { get; init; }

    /// <summary>Each with what was expected and what came back.</summary>
    public IReadOnlyList<OptimizeStep> Steps { get; init; } = [];

    /// <summary>The level before.</summary>
    public required PressureCategory PressureBefore { get; init; }

    /// <summary>The level after.</summary>
    public required PressureCategory PressureAfter { get; init; }

    /// <summary>Always true: a refusal is a <see cref="WorkerRequestException"/>.</summary>
    public bool Success => true;

    /// <summary>What consumers gave back for it, each with what came of that; empty from a worker that has none yet.</summary>
    public IReadOnlyList<ReleasedMemory> Released { get; init; } = [];

    /// <summary>The worker's own models that stay, and why; empty from a worker that does not say yet.</summary>
    public IReadOnlyList<KeptModel> ModelsKept { get; init; } = [];

    /// <summary>The first 16 consumers of each device of which nothing goes, and why; empty from a worker that does not say yet.</summary>
    public IReadOnlyList<KeptConsumer> ConsumersKept { get; init; } = [];

    /// <summary>Text of each word that this library does not know, by its name on the wire; null where there is none.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyDictionary<string, string>? UnknownWords { get; init; }

    internal static PostMemoryOptimizeResponse From(OptimizeResult wire) => new()
    {
        ReturnedBytes = wire.ReturnedBytes,
        Steps = wire.Steps,
        PressureBefore = wire.PressureBefore,
        PressureAfter = wire.PressureAfter,
        Released = wire.Released ?? [],
        ModelsKept = wire.ModelsKept ?? [],
        ConsumersKept = wire.ConsumersKept ?? [],
        UnknownWords = wire.UnknownWords,
    };
}

using System.Globalization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>The configured models and where they are.</summary>
public sealed record GetModelMemoryStatusResponse
{
    /// <summary>0–100; null if unknown.</summary>
    public double? PressureLevel { get; init; }

    /// <summary>The same in a word.</summary>
    public PressureCategory PressureCategory { get; init; }

    /// <summary>Every configured model.</summary>
    public IReadOnlyList<ModelStatus> Models { get; init; } = [];

    /// <summary>What can be asked for now.</summary>
    public IReadOnlyList<string> AvailableOperations { get; init; } = [];

    /// <summary>What would help.</summary>
    public IReadOnlyList<Recommendation> OptimizationRecommendations { get; init; } = [];

    /// <summary>When the figures were true.</summary>
    public required DateTimeOffset LastSynchronized { get; init; }

    internal static GetModelMemoryStatusResponse From(GetModelStatusResult wire) => new()
    {
        PressureLevel = wire.PressurePercentage,
        PressureCategory = wire.PressureCategory,
        Models = wire.Models,
        AvailableOperations = wire.AvailableOperations,
        OptimizationRecommendations = wire.OptimizationRecommendations,
        LastSynchronized = DateTimeOffset.Parse(wire.LastSynchronized, CultureInfo.InvariantCulture, DateTimeStyles.AssumeUniversal),
    };
}

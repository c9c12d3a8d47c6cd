using System.Globalization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>The configured models and where they are.</summary>
/// <param name="PressureLevel">0–100; null if unknown.</param>
/// <param name="PressureCategory">The same in a word; null if unknown.</param>
/// <param name="Models">Every configured model.</param>
/// <param name="AvailableOperations">What can be asked for now.</param>
/// <param name="OptimizationRecommendations">What would help.</param>
/// <param name="LastSynchronized">When the figures were true.</param>
public sealed record GetModelMemoryStatusResponse(
    double? PressureLevel,
    PressureCategory? PressureCategory,
    IReadOnlyList<ModelStatus> Models,
    IReadOnlyList<string> AvailableOperations,
    IReadOnlyList<Recommendation> OptimizationRecommendations,
    DateTimeOffset LastSynchronized)
{
    internal static GetModelMemoryStatusResponse From(GetModelStatusResult wire) => new(
        wire.PressurePercentage,
        GetMemoryPressureResponse.Category(wire.PressureLevel),
        wire.Models,
        wire.AvailableOperations,
        wire.OptimizationRecommendations,
        DateTimeOffset.Parse(wire.LastSynchronized, CultureInfo.InvariantCulture, DateTimeStyles.AssumeUniversal));
}

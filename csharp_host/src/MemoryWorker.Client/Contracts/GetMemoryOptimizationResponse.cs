using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>The actions worth taking, cheapest per byte first.</summary>
public sealed record GetMemoryOptimizationResponse
{
    /// <summary>Each can be sent as it stands: <see cref="IServiceMemory.ExecuteRecommendationAsync"/>.</summary>
    public IReadOnlyList<Recommendation> Recommendations { get; init; } = [];

    internal static GetMemoryOptimizationResponse From(GetOptimizationRecommendationsResult wire) => new()
    {
        Recommendations = wire.Recommendations,
    };
}

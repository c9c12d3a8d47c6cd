using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>The actions worth taking, cheapest per byte first.</summary>
/// <param name="Recommendations">Each can be sent as it stands: <see cref="IServiceMemory.ExecuteRecommendationAsync"/>.</param>
public sealed record GetMemoryOptimizationResponse(IReadOnlyList<Recommendation> Recommendations)
{
    internal static GetMemoryOptimizationResponse From(GetOptimizationRecommendationsResult wire) => new(wire.Recommendations);
}

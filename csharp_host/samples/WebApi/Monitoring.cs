using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

namespace WebApi;

/// <summary>What a person or a dashboard looks at first, in one answer.</summary>
internal static class Monitoring
{
    public static async Task<IResult> GetAsync(IPythonWorkerService worker, CancellationToken token)
    {
        var memory = worker.ExecuteAsync(WireActions.GetStatus, new GetStatusParams { IncludeUsageStats = true }, cancellationToken: token);
        var pressure = worker.ExecuteAsync(WireActions.GetPressure, new GetPressureParams(), cancellationToken: token);
        var models = worker.ExecuteAsync(WireActions.GetModelStatus, new GetModelStatusParams(), cancellationToken: token);
        await Task.WhenAll(memory, pressure, models);
        var seen = new { Worker = worker.Snapshot, Memory = await memory, Pressure = await pressure, Models = await models };
        return Results.Json(seen, WireJsonOptions.Value);
    }
}

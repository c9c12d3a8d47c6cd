using MemoryWorker.Client;
using Microsoft.Extensions.Diagnostics.HealthChecks;

namespace WebApi;

/// <summary>A part that only a worker that runs can be asked about; whether one runs is the part <c>memory_worker</c>.</summary>
internal abstract class WorkerHealthCheck(IPythonWorkerService worker) : IHealthCheck
{
    public async Task<HealthCheckResult> CheckHealthAsync(HealthCheckContext context, CancellationToken cancellationToken = default)
    {
        if (worker.Snapshot.State != WorkerState.Running)
        {
            return HealthCheckResult.Degraded($"not known: the worker is {worker.Snapshot.State}");
        }

        try
        {
            return await AskAsync(cancellationToken);
        }
        catch (WorkerException problem)
        {
            return HealthCheckResult.Degraded($"not known: {problem.Code}");
        }
    }

    protected abstract Task<HealthCheckResult> AskAsync(CancellationToken cancellationToken);
}

using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;
using Microsoft.Extensions.Diagnostics.HealthChecks;

namespace MemoryWorker.Hosting;

/// <summary>Healthy where the worker answers a ping, degraded while one is starting, unhealthy otherwise.</summary>
internal sealed class MemoryWorkerHealthCheck(IPythonWorkerService worker, MemoryWorkerOptions options) : IHealthCheck
{
    public async Task<HealthCheckResult> CheckHealthAsync(
        HealthCheckContext context, CancellationToken cancellationToken = default)
    {
        var snapshot = worker.Snapshot;
        var data = new Dictionary<string, object>
        {
            ["state"] = snapshot.State.ToString(),
            ["exits"] = snapshot.Exits,
            ["in_flight"] = snapshot.InFlight,
            ["junk_lines"] = snapshot.JunkLines,
        };
        switch (snapshot.State)
        {
            case WorkerState.NotStarted:
                return HealthCheckResult.Healthy("no worker was needed yet", data);
            case WorkerState.Starting or WorkerState.Restarting:
                return HealthCheckResult.Degraded("the worker is starting", null, data);
            case WorkerState.Running:
                return await PingAsync(snapshot.ProcessId, data, cancellationToken).ConfigureAwait(false);
            default:
                return new(context.Registration.FailureStatus, $"the worker does not run: {snapshot.State}", null, data);
        }

        async Task<HealthCheckResult> PingAsync(int? processId, Dictionary<string, object> data, CancellationToken token)
        {
            try
            {
                var call = new WorkerCallOptions { Timeout = options.PingTimeout };
                var pong = await worker.ExecuteAsync(WireActions.WorkerPing, new PingParams(), call, token).ConfigureAwait(false);
                return HealthCheckResult.Healthy($"process {processId} has answered for {pong.UptimeMs} ms", data);
            }
            catch (WorkerException problem)
            {
                return new(context.Registration.FailureStatus, problem.Summary, problem, data);
            }
        }
    }
}

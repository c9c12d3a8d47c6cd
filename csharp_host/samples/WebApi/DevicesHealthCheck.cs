using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;
using Microsoft.Extensions.Diagnostics.HealthChecks;

namespace WebApi;

/// <summary>Degraded where a device is lost or cannot be had: the others go on.</summary>
internal sealed class DevicesHealthCheck(IPythonWorkerService worker, IServiceMemory memory) : WorkerHealthCheck(worker)
{
    protected override async Task<HealthCheckResult> AskAsync(CancellationToken cancellationToken)
    {
        var devices = (await memory.GetMemoryStatusAsync(cancellationToken: cancellationToken)).Devices;
        var data = devices.ToDictionary(one => one.DeviceId, one => (object)one.State.ToWord());
        var missing = devices
            .Where(one => one.State is not DeviceState.Available)
            .Select(one => $"{one.DeviceId} is {one.State.ToWord()}: {one.StateReason ?? "no reason is known"}")
            .ToList();
        return missing.Count == 0
            ? HealthCheckResult.Healthy($"{devices.Count} devices can be asked", data)
            : HealthCheckResult.Degraded(string.Join("; ", missing), null, data);
    }
}

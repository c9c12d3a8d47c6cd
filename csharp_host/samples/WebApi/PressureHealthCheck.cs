using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;
using Microsoft.Extensions.Diagnostics.HealthChecks;

namespace WebApi;

/// <summary>Degraded while a device is about to run out: requests may be refused for want of memory.</summary>
internal sealed class PressureHealthCheck(IPythonWorkerService worker, IServiceMemory memory) : WorkerHealthCheck(worker)
{
    protected override async Task<HealthCheckResult> AskAsync(CancellationToken cancellationToken)
    {
        var pressure = await memory.GetMemoryPressureAsync(cancellationToken: cancellationToken);
        var data = pressure.Devices.ToDictionary(one => one.DeviceId, one => (object)one.PressureCategory.ToWord());
        return pressure.WorstCategory is PressureCategory.Critical
            ? HealthCheckResult.Degraded($"{pressure.DeviceId} is at {pressure.PressureLevel:0.#} %", null, data)
            : HealthCheckResult.Healthy($"at most {pressure.WorstCategory.ToWord()}", data);
    }
}

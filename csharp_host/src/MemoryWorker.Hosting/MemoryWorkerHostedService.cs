using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Options;

namespace MemoryWorker.Hosting;

/// <summary>Starts the worker with the host and ends it with the host.</summary>
internal sealed class MemoryWorkerHostedService(ObservedPythonWorkerService worker, IOptions<MemoryWorkerOptions> options)
    : IHostedService
{
    public Task StartAsync(CancellationToken cancellationToken) =>
        options.Value.StartWithHost ? worker.StartAsync(cancellationToken) : Task.CompletedTask;

    public async Task StopAsync(CancellationToken cancellationToken) => await worker.DisposeAsync().ConfigureAwait(false);
}

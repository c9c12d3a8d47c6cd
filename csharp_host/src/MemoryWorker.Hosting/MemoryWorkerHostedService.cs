using MemoryWorker.Client;
using Microsoft.Extensions.Hosting;

namespace MemoryWorker.Hosting;

/// <summary>Starts the worker with the host and ends it with the host.</summary>
internal sealed class MemoryWorkerHostedService(IPythonWorkerService worker, MemoryWorkerOptions options)
    : IHostedService
{
    public Task StartAsync(CancellationToken cancellationToken) =>
        options.StartWithHost ? worker.StartAsync(cancellationToken) : Task.CompletedTask;

    public async Task StopAsync(CancellationToken cancellationToken) => await worker.DisposeAsync().ConfigureAwait(false);
}

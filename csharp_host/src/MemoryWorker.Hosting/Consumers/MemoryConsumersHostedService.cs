using MemoryWorker.Client;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;

namespace MemoryWorker.Hosting;

/// <summary>Registers the host's consumers once the host starts; ended before the worker is.</summary>
internal sealed class MemoryConsumersHostedService : IHostedService
{
    private readonly MemoryConsumers _consumers;

    public MemoryConsumersHostedService(MemoryConsumers consumers, ILogger logger)
    {
        _consumers = consumers;
        _consumers.Failed += (_, failed) => logger.ConsumerFailed(failed);
    }

    public Task StartAsync(CancellationToken cancellationToken)
    {
        _consumers.Start();
        return Task.CompletedTask;
    }

    public async Task StopAsync(CancellationToken cancellationToken) => await _consumers.DisposeAsync().ConfigureAwait(false);
}

using MemoryWorker.Client;
using Microsoft.Extensions.Configuration;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.DependencyInjection.Extensions;
using Microsoft.Extensions.Diagnostics.HealthChecks;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Options;

namespace MemoryWorker.Hosting;

/// <summary>Adds the memory worker to a host.</summary>
public static class MemoryWorkerServiceCollectionExtensions
{
    /// <summary>
    /// Adds <see cref="IServiceMemory"/> and <see cref="IPythonWorkerService"/>, the worker's start and end with the
    /// host, a health check named <c>memory_worker</c>, metrics, traces and logs.
    /// </summary>
    /// <param name="services">The host's services.</param>
    /// <param name="configuration">The section <see cref="MemoryWorkerOptions.Section"/>, where there is one.</param>
    /// <param name="configure">Changes options after they were bound.</param>
    /// <exception cref="OptionsValidationException">At the start of the host: an option makes no sense.</exception>
    public static IServiceCollection AddMemoryWorker(
        this IServiceCollection services,
        IConfiguration? configuration = null,
        Action<MemoryWorkerOptions>? configure = null)
    {
        ArgumentNullException.ThrowIfNull(services);
        var options = services.AddOptions<MemoryWorkerOptions>().ValidateOnStart();
        if (configuration is not null)
        {
            options.Bind(configuration);
        }

        if (configure is not null)
        {
            options.Configure(configure);
        }

        services.AddMetrics();
        services.TryAddSingleton(TimeProvider.System);
        services.TryAddSingleton<MemoryWorkerTelemetry>();
        services.TryAddEnumerable(
            ServiceDescriptor.Singleton<IValidateOptions<MemoryWorkerOptions>, MemoryWorkerOptionsValidator>());
        services.TryAddSingleton(provider => new ObservedPythonWorkerService(
            provider.GetRequiredService<IOptions<MemoryWorkerOptions>>().Value.ToClient(provider.GetRequiredService<TimeProvider>()),
            provider.GetRequiredService<MemoryWorkerTelemetry>(),
            provider.GetRequiredService<ILoggerFactory>().CreateLogger(MemoryWorkerTelemetry.Name)));
        services.TryAddSingleton<IPythonWorkerService>(provider => provider.GetRequiredService<ObservedPythonWorkerService>());
        services.TryAddSingleton<IServiceMemory, ServiceMemory>();
        services.TryAddEnumerable(ServiceDescriptor.Singleton<IHostedService, MemoryWorkerHostedService>());
        services.AddHealthChecks().Add(new HealthCheckRegistration(
            "memory_worker",
            provider => ActivatorUtilities.CreateInstance<MemoryWorkerHealthCheck>(provider),
            HealthStatus.Unhealthy,
            ["memory"]));
        return services;
    }
}

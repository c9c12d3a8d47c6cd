using System.Diagnostics.CodeAnalysis;
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
    private const string HealthCheckName = "memory_worker";
    private const string Binds = "Options are bound from configuration by reflection; the overload that takes only Action<MemoryWorkerOptions> is safe.";

    /// <inheritdoc cref="AddMemoryWorker(IServiceCollection, IConfiguration?, Action{MemoryWorkerOptions}?)"/>
    /// <remarks>For applications that are trimmed or compiled ahead of time: nothing is bound by reflection.</remarks>
    public static IServiceCollection AddMemoryWorker(this IServiceCollection services, Action<MemoryWorkerOptions> configure)
    {
        ArgumentNullException.ThrowIfNull(services);
        ArgumentNullException.ThrowIfNull(configure);
        return services.Add(configure);
    }

    /// <summary>
    /// Adds <see cref="IServiceMemory"/>, <see cref="IMemoryStores"/> and <see cref="IPythonWorkerService"/>, the worker's start and end with the
    /// host, a health check named <c>memory_worker</c>, metrics, traces and logs.
    /// </summary>
    /// <param name="services">The host's services.</param>
    /// <param name="configuration">The section <see cref="MemoryWorkerOptions.Section"/>, where there is one.</param>
    /// <param name="configure">Changes options after they were bound.</param>
    /// <exception cref="OptionsValidationException">At the start of the host: an option makes no sense.</exception>
    [RequiresUnreferencedCode(Binds)]
    [RequiresDynamicCode(Binds)]
    public static IServiceCollection AddMemoryWorker(
        this IServiceCollection services,
        IConfiguration? configuration = null,
        Action<MemoryWorkerOptions>? configure = null)
    {
        ArgumentNullException.ThrowIfNull(services);
        services.Bind(Options.DefaultName, configuration);
        return services.Add(configure);
    }

    private static IServiceCollection Add(this IServiceCollection services, Action<MemoryWorkerOptions>? configure)
    {
        services.Prepare(Options.DefaultName, configure);
        if (services.Any(one => one.ServiceType == typeof(ObservedPythonWorkerService)))
        {
            return services; // It is there already, and has these options, too.
        }

        services.AddSingleton(provider => Observed(provider, null));
        services.TryAddSingleton<IPythonWorkerService>(provider => provider.GetRequiredService<ObservedPythonWorkerService>());
        services.TryAddSingleton<IServiceMemory, ServiceMemory>();
        services.TryAddSingleton<IMemoryStores, MemoryStores>();
        return services.AddLifetime(HealthCheckName, null, provider => provider.GetRequiredService<IPythonWorkerService>());
    }

    /// <summary>
    /// Adds one of several workers, each under a key of its own: <c>[FromKeyedServices("second")] IServiceMemory memory</c>.
    /// Its health check is <c>memory_worker_</c> and the key, its options are named by the key, and so are its telemetry and
    /// its logs.
    /// </summary>
    /// <param name="services">The host's services.</param>
    /// <param name="key">What it is asked for by; each may be added once.</param>
    /// <param name="configuration">The section of this worker, where there is one.</param>
    /// <param name="configure">Changes options after they were bound.</param>
    /// <exception cref="ArgumentException">There is one of this key.</exception>
    /// <exception cref="OptionsValidationException">At the start of the host: an option makes no sense.</exception>
    [RequiresUnreferencedCode(Binds)]
    [RequiresDynamicCode(Binds)]
    public static IServiceCollection AddKeyedMemoryWorker(
        this IServiceCollection services,
        string key,
        IConfiguration? configuration = null,
        Action<MemoryWorkerOptions>? configure = null)
    {
        ArgumentNullException.ThrowIfNull(services);
        ArgumentException.ThrowIfNullOrEmpty(key);
        if (services.Any(one => one.IsKeyedService && one.ServiceType == typeof(IServiceMemory) && key.Equals(one.ServiceKey)))
        {
            throw new ArgumentException($"there is a memory worker '{key}' already", nameof(key));
        }

        services.Bind(key, configuration);
        services.Prepare(key, configure);
        services.AddKeyedSingleton<IPythonWorkerService>(key, (provider, _) => Observed(provider, key));
        services.AddKeyedSingleton<IServiceMemory>(
            key, (provider, _) => new ServiceMemory(provider.GetRequiredKeyedService<IPythonWorkerService>(key)));
        services.AddKeyedSingleton<IMemoryStores>(
            key, (provider, _) => new MemoryStores(provider.GetRequiredKeyedService<IPythonWorkerService>(key)));
        return services.AddLifetime($"{HealthCheckName}_{key}", key, provider => provider.GetRequiredKeyedService<IPythonWorkerService>(key));
    }

    [RequiresUnreferencedCode(Binds)]
    [RequiresDynamicCode(Binds)]
    private static void Bind(this IServiceCollection services, string name, IConfiguration? configuration)
    {
        if (configuration is not null)
        {
            services.AddOptions<MemoryWorkerOptions>(name).Bind(configuration).Configure(options =>
            {
                if (options.Python is null && configuration.GetChildren().Any(one => IsEmpty(one, nameof(options.Python))))
                {
                    options.Python = new(); // Binding passes over an empty section.
                }
            });
            services.AddSingleton<IValidateOptions<MemoryWorkerOptions>>(new UnknownOptions(name, configuration));
        }
    }

    private static bool IsEmpty(IConfigurationSection section, string key) =>
        section.Key.Equals(key, StringComparison.OrdinalIgnoreCase) && section.Value is null && !section.GetChildren().Any();

    private static void Prepare(this IServiceCollection services, string name, Action<MemoryWorkerOptions>? configure)
    {
        var options = services.AddOptions<MemoryWorkerOptions>(name).ValidateOnStart();
        if (configure is not null)
        {
            options.Configure(configure);
        }

        services.AddMetrics();
        services.TryAddSingleton(TimeProvider.System);
        services.TryAddSingleton<MemoryWorkerTelemetry>();
        services.TryAddEnumerable(
            ServiceDescriptor.Singleton<IValidateOptions<MemoryWorkerOptions>, MemoryWorkerOptionsValidator>());
    }

    private static ObservedPythonWorkerService Observed(IServiceProvider provider, string? key) => new(
        provider.OptionsOf(key).ToClient(provider.GetRequiredService<TimeProvider>()),
        provider.GetRequiredService<MemoryWorkerTelemetry>(),
        provider.GetRequiredService<ILoggerFactory>().CreateLogger(MemoryWorkerTelemetry.LoggerName(key)),
        key);

    /// <summary>Starts and ends the worker with the host, and adds its health check.</summary>
    private static IServiceCollection AddLifetime(
        this IServiceCollection services, string healthCheck, string? key, Func<IServiceProvider, IPythonWorkerService> worker)
    {
        services.AddSingleton<IHostedService>(
            provider => new MemoryWorkerHostedService(worker(provider), provider.OptionsOf(key)));
        services.AddHealthChecks().Add(new HealthCheckRegistration(
            healthCheck,
            provider => new MemoryWorkerHealthCheck(worker(provider), provider.OptionsOf(key)),
            HealthStatus.Unhealthy,
            ["memory"]));
        return services;
    }

    private static MemoryWorkerOptions OptionsOf(this IServiceProvider provider, string? key) =>
        provider.GetRequiredService<IOptionsMonitor<MemoryWorkerOptions>>().Get(key ?? Options.DefaultName);
}

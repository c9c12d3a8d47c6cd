using System.Diagnostics.CodeAnalysis;
using MemoryWorker.Client;
using Microsoft.Extensions.Caching.Memory;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.DependencyInjection.Extensions;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Options;

namespace MemoryWorker.Hosting;

/// <summary>Adds a host's own memory to what the worker can make room from.</summary>
public static class MemoryConsumerServiceCollectionExtensions
{
    /// <summary>Adds a consumer of memory that the container makes.</summary>
    /// <typeparam name="T">A singleton from now on.</typeparam>
    /// <param name="services">The host's services, with a memory worker.</param>
    /// <param name="key">Of the worker that is told, where there are several.</param>
    public static IServiceCollection AddMemoryConsumer<[DynamicallyAccessedMembers(DynamicallyAccessedMemberTypes.PublicConstructors)] T>(
        this IServiceCollection services, string? key = null)
        where T : class, IMemoryConsumer
    {
        ArgumentNullException.ThrowIfNull(services);
        services.TryAddSingleton<T>();
        return services.AddMemoryConsumer(provider => provider.GetRequiredService<T>(), key);
    }

    /// <summary>Adds a consumer of memory, once the host starts.</summary>
    /// <param name="services">The host's services, with a memory worker.</param>
    /// <param name="make">Makes it, or finds it.</param>
    /// <param name="key">Of the worker that is told, where there are several.</param>
    public static IServiceCollection AddMemoryConsumer(
        this IServiceCollection services, Func<IServiceProvider, IMemoryConsumer> make, string? key = null)
    {
        ArgumentNullException.ThrowIfNull(services);
        ArgumentNullException.ThrowIfNull(make);
        if (!services.Any(one => one.ServiceType == typeof(MemoryConsumers) && Equals(one.ServiceKey, key)))
        {
            services.AddKeyedSingleton(key, (provider, _) => new MemoryConsumers(
                provider.Of<IServiceMemory>(key),
                provider.Of<IPythonWorkerService>(key),
                provider.GetKeyedServices<IMemoryConsumer>(key),
                clock: provider.GetRequiredService<TimeProvider>()));
            services.AddSingleton<IHostedService>(provider => new MemoryConsumersHostedService(
                provider.Of<MemoryConsumers>(key),
                provider.GetRequiredService<ILoggerFactory>().CreateLogger(MemoryWorkerTelemetry.LoggerName(key))));
        }

        return services.AddKeyedSingleton(key, (provider, _) => make(provider));
    }

    /// <summary>Adds the container's <see cref="IMemoryCache"/>, which keeps statistics from now on. It is to have a size limit in bytes.</summary>
    /// <param name="services">The host's services, with a memory worker.</param>
    /// <param name="id">Its name as a consumer.</param>
    /// <param name="options">What it is worth.</param>
    /// <param name="key">Of the worker that is told, where there are several.</param>
    public static IServiceCollection AddMemoryCacheConsumer(
        this IServiceCollection services, string id, MemoryCacheConsumerOptions options, string? key = null)
    {
        ArgumentNullException.ThrowIfNull(services);
        services.AddMemoryCache(cache => cache.TrackStatistics = true);
        return services.AddMemoryConsumer(
            provider => new MemoryCacheConsumer(
                id,
                provider.GetRequiredService<IMemoryCache>() as MemoryCache
                    ?? throw new InvalidOperationException("the container's IMemoryCache is no MemoryCache: use AddMemoryConsumer with yours"),
                provider.GetRequiredService<IOptions<MemoryCacheOptions>>().Value,
                options),
            key);
    }

    private static T Of<T>(this IServiceProvider provider, string? key)
        where T : notnull => key is null ? provider.GetRequiredService<T>() : provider.GetRequiredKeyedService<T>(key);
}

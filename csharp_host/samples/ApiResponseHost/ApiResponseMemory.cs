namespace ApiResponseHost;

/// <summary>What takes the place of those hosts' own services.</summary>
public static class ApiResponseMemory
{
    /// <summary>Adds <see cref="IServiceMemory"/> and <see cref="IPythonWorkerService"/> on top of <c>AddMemoryWorker</c>.</summary>
    public static IServiceCollection AddApiResponseMemory(this IServiceCollection services) => services
        .AddSingleton<DeviceNames>()
        .AddSingleton<IServiceMemory, ServiceMemory>()
        .AddSingleton<IPythonWorkerService, PythonWorkerService>();
}

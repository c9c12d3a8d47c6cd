using MemoryWorker.Client.Protocol;
using MemoryWorker.Hosting;
using Microsoft.Extensions.Options;
using Worker = MemoryWorker.Client;

namespace ApiResponseHost;

/// <summary>What those hosts call memory, in the worker's terms. What has no counterpart is a <see cref="NotMappedException"/>.</summary>
internal sealed class DeviceNames(Worker.IServiceMemory memory, IOptions<MemoryWorkerOptions> options)
{
    public const string Cpu = "cpu";

    private static readonly string[] OfAccelerator = ["gpu", "vram"];
    private static readonly string[] OfHost = ["cpu", "ram"];

    private static readonly Dictionary<string, MemoryType> Own = Enum.GetValues<MemoryType>()
        .Where(one => one is not MemoryType.Unknown)
        .ToDictionary(one => one.ToWord());

    /// <summary>Returns the device that a host means by a name; a name of none is left for the worker to refuse.</summary>
    public Task<string> DeviceAsync(string? name) => name?.ToLowerInvariant() switch
    {
        null or "" => throw new NotMappedException("the device's name is empty: name one, or leave it out for all"),
        var word when OfAccelerator.Contains(word) => AcceleratorAsync(name!),
        var word when OfHost.Contains(word) => Task.FromResult(Cpu),
        _ => Task.FromResult(name!),
    };

    /// <summary>Says where an allocation is to lie.</summary>
    /// <param name="memoryType">As the host says it.</param>
    /// <param name="deviceId">As the host says it; null where it leaves that to <paramref name="memoryType"/>.</param>
    public async Task<(string DeviceId, MemoryType MemoryType)> PlaceAsync(string? memoryType, string? deviceId)
    {
        var word = memoryType?.ToLowerInvariant() ?? string.Empty; // JSON may say null
        if (OfAccelerator.Contains(word))
        {
            return (await DeviceAsync(deviceId ?? memoryType), MemoryType.Device);
        }

        if (OfHost.Contains(word))
        {
            return (await DeviceAsync(deviceId ?? Cpu), MemoryType.Host);
        }

        return Own.TryGetValue(word, out var own)
            ? (await DeviceAsync(deviceId ?? options.Value.Worker.DefaultDevice ?? await FirstAcceleratorAsync() ?? Cpu), own)
            : throw new NotMappedException(
                $"MemoryType '{memoryType}' is none of GPU, VRAM, RAM, CPU, {string.Join(", ", Own.Keys)}");
    }

    /// <summary>Says which devices a request is about: null for all. A device's own name goes before the type's.</summary>
    /// <exception cref="NotMappedException">The two contradict each other.</exception>
    public async Task<string?> DevicesAsync(string? memoryType, string? deviceId, bool mayContradict)
    {
        var word = memoryType?.ToLowerInvariant() ?? string.Empty; // JSON may say null
        var ofAccelerator = OfAccelerator.Contains(word);
        if (!ofAccelerator && !OfHost.Contains(word) && word != "all")
        {
            throw new NotMappedException($"'{memoryType}' is none of all, GPU, VRAM, RAM, CPU");
        }

        if (deviceId is null)
        {
            return word == "all" ? null : await DeviceAsync(memoryType);
        }

        var device = await DeviceAsync(deviceId);
        return mayContradict || word == "all" || ofAccelerator == (device != Cpu)
            ? device
            : throw new NotMappedException(
                $"MemoryType '{memoryType}' is not what device '{device}' has: say \"all\" for all that is on it");
    }

    private async Task<string> AcceleratorAsync(string name) =>
        await FirstAcceleratorAsync()
        ?? throw new NotMappedException(
            $"'{name}' means the first accelerator, and this machine has none: say \"RAM\", or name a device",
            "device_not_found",
            StatusCodes.Status404NotFound);

    /// <summary>The worker's default device where that is an accelerator, else the first one there is, as the worker has it.</summary>
    private async Task<string?> FirstAcceleratorAsync() =>
        options.Value.Worker.DefaultDevice is { } chosen && chosen != Cpu
            ? chosen
            : (await memory.GetMemoryStatusAsync()).Devices
                .FirstOrDefault(one => one.Kind != DeviceKind.Cpu && one.State != DeviceState.Unavailable)?.DeviceId;
}

using System.Text.Json.Serialization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Where the memory is, on one device or all. Sizes are bytes; what is not known is null.</summary>
public sealed record GetMemoryStatusResponse
{
    /// <summary>Each device's figures, and whose they are.</summary>
    public IReadOnlyList<DeviceStatus> Devices { get; init; } = [];

    /// <summary>The machine's own memory.</summary>
    public required HostStatus Host { get; init; }

    /// <summary>The worst of the devices'.</summary>
    public required PressureCategory PressureCategory { get; init; }

    /// <summary>Age of the oldest reading.</summary>
    public required TimeSpan Age { get; init; }

    /// <summary>Where the next page begins; null on the last.</summary>
    public string? Next { get; init; }

    /// <summary>Text of each word that this library does not know, by its name on the wire; null where there is none.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyDictionary<string, string>? UnknownWords { get; init; }

    internal static GetMemoryStatusResponse From(GetStatusResult wire) => new()
    {
        Devices = wire.Devices,
        Host = wire.Host,
        PressureCategory = wire.PressureCategory,
        Age = TimeSpan.FromMilliseconds(wire.AgeMs),
        Next = wire.Next,
        UnknownWords = wire.UnknownWords,
    };
}

using System.Text.Json.Serialization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Where the memory is, on one device or all. Sizes are bytes; what is not known is null.</summary>
/// <param name="Devices">Each device's figures, and whose they are.</param>
/// <param name="Host">The machine's own memory.</param>
/// <param name="PressureLevel">The worst of the devices'.</param>
/// <param name="AgeMs">Age of the oldest reading.</param>
public sealed record GetMemoryStatusResponse(
    IReadOnlyList<DeviceStatus> Devices, HostStatus Host, PressureLevel PressureLevel, long AgeMs)
{
    /// <summary>Text of each word that this library does not know, by its name on the wire; null where there is none.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public IReadOnlyDictionary<string, string>? UnknownWords { get; init; }

    internal static GetMemoryStatusResponse From(GetStatusResult wire) =>
        new(wire.Devices, wire.Host, wire.PressureLevel, wire.AgeMs) { UnknownWords = wire.UnknownWords };
}

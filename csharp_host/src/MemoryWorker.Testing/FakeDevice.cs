using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>A device of an <see cref="InMemoryWorker"/>.</summary>
/// <param name="DeviceId">Its name: <c>cpu</c>, <c>cuda:0</c>, <c>directml:0</c>.</param>
/// <param name="BudgetBytes">The most that can be allocated of it, models included.</param>
public sealed record FakeDevice(string DeviceId, long BudgetBytes)
{
    /// <summary>What it says that it is.</summary>
    public DeviceKind Kind { get; init; } = DeviceKind.Simulated;

    /// <summary>Its state; only an available one gives memory.</summary>
    public DeviceState State { get; init; } = DeviceState.Available;

    /// <summary>
    /// What the actual size of an allocation is a multiple of, in bytes: devices give memory in whole pieces, of 256 (simulated),
    /// 512 (CUDA) or 4096 (the CPU). 1 by default, so that a test can reckon with sizes as asked for.
    /// </summary>
    public long GranuleBytes { get; init; } = 1;

    /// <summary>Percentages of the budget at which it becomes moderate, high and critical.</summary>
    public PressureThresholds Thresholds { get; init; } = new() { Moderate = 75, High = 90, Critical = 95 };
}

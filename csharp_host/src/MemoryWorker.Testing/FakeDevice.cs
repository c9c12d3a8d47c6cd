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

    /// <summary>Percentages of the budget at which it becomes moderate, high and critical.</summary>
    public PressureThresholds Thresholds { get; init; } = new() { Moderate = 75, High = 90, Critical = 95 };
}

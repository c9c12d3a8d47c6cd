using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Memory that was given back.</summary>
/// <param name="AllocationId">Which.</param>
/// <param name="Success">Always true: a refusal is a <see cref="WorkerRequestException"/>.</param>
/// <param name="DeviceId">Where it was.</param>
/// <param name="FreedBytes">As the ledger had it.</param>
/// <param name="ReturnedBytes">As the system measured it; null if unknown.</param>
/// <param name="AvailableBytes">What can be had now; null if unknown.</param>
public sealed record DeleteMemoryDeallocateResponse(
    string AllocationId, bool Success, string DeviceId, long FreedBytes, long? ReturnedBytes, long? AvailableBytes)
{
    internal static DeleteMemoryDeallocateResponse From(DeallocateResult wire) =>
        new(wire.AllocationId, true, wire.DeviceId, wire.FreedBytes, wire.ReturnedBytes, wire.AvailableBytes);
}

namespace MemoryWorker.Client;

/// <summary>An allocation that went with its worker.</summary>
/// <param name="AllocationId">As the worker named it. A later worker may use the name again.</param>
/// <param name="DeviceId">Where it was.</param>
/// <param name="SizeBytes">As asked for.</param>
/// <param name="Owner">Who had asked for it.</param>
/// <param name="Purpose">What for.</param>
public sealed record LostAllocation(string AllocationId, string DeviceId, long SizeBytes, string? Owner, string? Purpose);

using System.Text.Json;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Something the worker said unasked, after it was asked to.</summary>
/// <param name="Sequence">Counts from 1 per worker process and subscription, without gaps unless the reader fell behind.</param>
/// <param name="ProcessId">The worker that said it.</param>
public abstract record WorkerEvent(long Sequence, int ProcessId)
{
    internal static WorkerEvent? Read(string name, long sequence, int processId, ReadOnlySpan<byte> data)
    {
        var reader = new Utf8JsonReader(data);
        reader.Read();
        return name switch
        {
            "memory.pressure_changed" =>
                new PressureChangedEvent(sequence, processId, PressureChangedData.Read(ref reader, strict: false)),
            "memory.allocation_expired" =>
                new AllocationExpiredEvent(sequence, processId, AllocationExpiredData.Read(ref reader, strict: false)),
            "device.lost" => new DeviceLostEvent(sequence, processId, DeviceLostData.Read(ref reader, strict: false)),
            "device.recovered" =>
                new DeviceRecoveredEvent(sequence, processId, DeviceRecoveredData.Read(ref reader, strict: false)),
            _ => null,
        };
    }
}

/// <summary>A device came to another level of pressure.</summary>
public sealed record PressureChangedEvent(long Sequence, int ProcessId, PressureChangedData Data)
    : WorkerEvent(Sequence, ProcessId);

/// <summary>A lease ran out and its allocation was freed.</summary>
public sealed record AllocationExpiredEvent(long Sequence, int ProcessId, AllocationExpiredData Data)
    : WorkerEvent(Sequence, ProcessId);

/// <summary>A device went away, and what lay on it.</summary>
public sealed record DeviceLostEvent(long Sequence, int ProcessId, DeviceLostData Data)
    : WorkerEvent(Sequence, ProcessId);

/// <summary>A device that was lost can be asked for memory again.</summary>
public sealed record DeviceRecoveredEvent(long Sequence, int ProcessId, DeviceRecoveredData Data)
    : WorkerEvent(Sequence, ProcessId);

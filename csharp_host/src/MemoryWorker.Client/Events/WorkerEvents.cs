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
            "memory.exhaustion_forecast" =>
                new ExhaustionForecastEvent(sequence, processId, ExhaustionForecastData.Read(ref reader, strict: false)),
            "memory.budget_changed" =>
                new BudgetChangedEvent(sequence, processId, BudgetChangedData.Read(ref reader, strict: false)),
            "memory.leak_suspected" =>
                new LeakSuspectedEvent(sequence, processId, LeakSuspectedData.Read(ref reader, strict: false)),
            "memory.optimized" => new OptimizedEvent(sequence, processId, OptimizedData.Read(ref reader, strict: false)),
            "memory.allocation_expired" =>
                new AllocationExpiredEvent(sequence, processId, AllocationExpiredData.Read(ref reader, strict: false)),
            "memory.model_unloaded" =>
                new ModelUnloadedEvent(sequence, processId, ModelUnloadedData.Read(ref reader, strict: false)),
            "memory.unload_requested" =>
                new UnloadRequestedEvent(sequence, processId, UnloadRequestedData.Read(ref reader, strict: false)),
            "device.lost" => new DeviceLostEvent(sequence, processId, DeviceLostData.Read(ref reader, strict: false)),
            "device.recovered" =>
                new DeviceRecoveredEvent(sequence, processId, DeviceRecoveredData.Read(ref reader, strict: false)),
            "device.contents_displaced" =>
                new ContentsDisplacedEvent(sequence, processId, ContentsDisplacedData.Read(ref reader, strict: false)),
            _ => null,
        };
    }
}

/// <summary>A device came to another level of pressure.</summary>
public sealed record PressureChangedEvent(long Sequence, int ProcessId, PressureChangedData Data)
    : WorkerEvent(Sequence, ProcessId);

/// <summary>A device is about to run out if it goes on like this; or, with nulls, is not any more.</summary>
public sealed record ExhaustionForecastEvent(long Sequence, int ProcessId, ExhaustionForecastData Data)
    : WorkerEvent(Sequence, ProcessId);

/// <summary>The most that the worker may use of a device changed.</summary>
public sealed record BudgetChangedEvent(long Sequence, int ProcessId, BudgetChangedData Data)
    : WorkerEvent(Sequence, ProcessId);

/// <summary>Something looks like a leak.</summary>
public sealed record LeakSuspectedEvent(long Sequence, int ProcessId, LeakSuspectedData Data)
    : WorkerEvent(Sequence, ProcessId);

/// <summary>The worker made room by itself.</summary>
public sealed record OptimizedEvent(long Sequence, int ProcessId, OptimizedData Data)
    : WorkerEvent(Sequence, ProcessId);

/// <summary>A lease ran out and its allocation was freed.</summary>
public sealed record AllocationExpiredEvent(long Sequence, int ProcessId, AllocationExpiredData Data)
    : WorkerEvent(Sequence, ProcessId);

/// <summary>A model was unloaded, and why.</summary>
public sealed record ModelUnloadedEvent(long Sequence, int ProcessId, ModelUnloadedData Data)
    : WorkerEvent(Sequence, ProcessId);

/// <summary>
/// A model that another process holds is wanted unloaded. Its owner answers with
/// <see cref="IServiceMemory.ConfirmModelUnloadedAsync"/>, or with <see cref="IServiceMemory.ConfirmModelLoadedAsync"/>
/// if it keeps it.
/// </summary>
public sealed record UnloadRequestedEvent(long Sequence, int ProcessId, UnloadRequestedData Data)
    : WorkerEvent(Sequence, ProcessId);

/// <summary>A device went away, and what lay on it.</summary>
public sealed record DeviceLostEvent(long Sequence, int ProcessId, DeviceLostData Data)
    : WorkerEvent(Sequence, ProcessId);

/// <summary>A device that was lost can be asked for memory again.</summary>
public sealed record DeviceRecoveredEvent(long Sequence, int ProcessId, DeviceRecoveredData Data)
    : WorkerEvent(Sequence, ProcessId);

/// <summary>Contents of a device wait in host memory until it has room for them; with no bytes, none do any more.</summary>
public sealed record ContentsDisplacedEvent(long Sequence, int ProcessId, ContentsDisplacedData Data)
    : WorkerEvent(Sequence, ProcessId);

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
            _ => null,
        };
    }
}

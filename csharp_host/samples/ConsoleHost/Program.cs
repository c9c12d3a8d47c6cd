// A walk through the memory worker:  dotnet run [-- PYTHON [FOLDER]]
// PYTHON: an interpreter that has the worker installed (pip install). FOLDER: where it is started.
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

var options = new PythonWorkerOptions
{
    FileName = args.ElementAtOrDefault(0) ?? new PythonWorkerOptions().FileName,
    WorkingDirectory = args.ElementAtOrDefault(1),
    Worker = new() { SimulatedDevices = ["256MiB,bandwidth_bytes_per_second=256MiB"] },
};
await using var worker = new PythonWorkerService(options);
worker.LogReceived += (_, entry) => Console.Error.WriteLine($"worker: {entry.Level} {entry.Message}");
worker.WorkerExited += (_, exited) =>
    Console.Error.WriteLine($"{exited.Reason}; lost: {string.Join(", ", exited.LostAllocations.Select(one => one.AllocationId))}");
var memory = new ServiceMemory(worker);

try
{
    await WalkAsync();
    return 0;
}
catch (WorkerException problem)
{
    Console.Error.WriteLine($"{problem.Code}: {problem.Message}");
    return 1;
}

async Task WalkAsync()
{
    var who = await memory.GetWorkerAsync();
    Console.WriteLine($"worker {who.WorkerVersion}, process {who.Pid}, protocol {who.Protocol}");

    foreach (var device in (await memory.GetMemoryStatusAsync()).Devices)
    {
        Console.WriteLine($"{device.DeviceId,-6} {device.Name}: {Bytes(device.AvailableBytes)} of {Bytes(device.TotalBytes)} available");
    }

    // Shared memory: the host writes, the worker copies it to a device, and no byte passes through JSON.
    await using var buffer = await SharedBuffer.AllocateAsync(
        memory, new PostMemoryAllocateRequest { SizeBytes = 64 << 20, Owner = "console" });
    buffer.AsTensor<float>([4096, 4096])[0, 0] = 0.5f;

    var copy = await memory.PostMemoryCopyAsync(
        new PostMemoryCopyRequest { SourceAllocationId = buffer.AllocationId, DestinationDeviceId = "sim:0", Verify = true },
        new Percentage());
    Console.WriteLine($"copied {Bytes(copy.CompletedBytes)} as {copy.DestinationAllocationId}, {copy.Checksum![..15]}…");

    var pressure = await memory.GetMemoryPressureAsync("sim:0");
    Console.WriteLine($"pressure on {pressure.DeviceId}: {pressure.PressureLevel:0.#} % ({pressure.PressureCategory})");

    try
    {
        await memory.PostMemoryAllocateAsync(new PostMemoryAllocateRequest { SizeBytes = 1L << 40, DeviceId = "sim:0" });
    }
    catch (WorkerRequestException refused) when (refused.ErrorCode == ErrorCode.OutOfMemory)
    {
        Console.WriteLine($"refused: {refused.Reason}");
    }

    var cleared = await memory.PostMemoryClearAsync(new PostMemoryClearRequest { ClearType = ClearType.Allocations });
    Console.WriteLine($"cleared {cleared.AllocationsFreed} allocations, {Bytes(cleared.ClearedBytes)}");
}

static string Bytes(long? bytes) => bytes is { } known ? $"{known / 1048576.0:0.#} MiB" : "unknown";

internal sealed class Percentage : IProgress<TransferProgress>
{
    public void Report(TransferProgress value) => Console.WriteLine($"  {value.Fraction:P0}");
}

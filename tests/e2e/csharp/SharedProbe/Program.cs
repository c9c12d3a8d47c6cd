// A host that works in shared memory and says as JSON what it saw. Arguments: PYTHON FOLDER.
using System.Buffers;
using System.Diagnostics;
using System.Security.Cryptography;
using System.Text.Json;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

await using var worker = new PythonWorkerService(new PythonWorkerOptions
{
    FileName = args[0],
    WorkingDirectory = args[1],
    Arguments = ["-m", "worker", "--simulated-device", "64MiB"],
});
var memory = new ServiceMemory(worker);
var seen = new Dictionary<string, object?>();

// One memory, four ways in: what is written here is what the worker reads.
var buffer = await SharedBuffer.AllocateAsync(memory, 12 << 20);
await buffer.Prefaulted;
seen["fresh_is_zero"] = !buffer.Span.ContainsAnyExcept((byte)0);
Random.Shared.NextBytes(buffer.Span);
"by memory"u8.CopyTo(buffer.Memory.Span);
"by slice"u8.CopyTo(buffer.Slice(4096, 8).Span);
buffer.AsSpan<long>(8192, 2)[1] = 42;
await using (var stream = buffer.CreateStream())
{
    stream.Position = buffer.SizeBytes - 9;
    await stream.WriteAsync("by stream"u8.ToArray());
    seen["stream_length"] = stream.Length;
    seen["stream_end"] = stream.Read(new byte[1]);
}

seen["as_owner"] = ((IMemoryOwner<byte>)buffer).Memory.Length;
var digest = "sha256:" + Convert.ToHexString(SHA256.HashData(buffer.Span)).ToLowerInvariant();
var copy = await CopyAsync(buffer, "sim:0", MemoryType.Device);
seen["worker_sees_it"] = copy.Checksum == digest;
seen["slice"] = buffer.Span.Slice(4096, 8).SequenceEqual("by slice"u8) && buffer.Span[8192 + 8] == 42;

// What the worker writes is here at once, and is freed from here.
var back = await memory.PostMemoryTransferAsync(new PostMemoryTransferRequest
{
    SourceAllocationId = copy.DestinationAllocationId!,
    DestinationDeviceId = "cpu",
    MemoryType = MemoryType.Shared,
});
await using (var opened = SharedBuffer.Open(memory, back.DestinationAllocationId!, back.SharedMemory!))
{
    seen["comes_back"] = opened.Span.SequenceEqual(buffer.Span);
}

// A touch beside the writes of others loses none of them.
await using (var busy = await SharedBuffer.AllocateAsync(memory, 32 << 20))
{
    busy.Span.Fill(7);
    await busy.Prefaulted;
    seen["prefault_loses_nothing"] = !busy.Span.ContainsAnyExcept((byte)7);
}

// Typed.
var tensor = buffer.AsTensor<float>([2, 3, 4]);
tensor[1, 2, 3] = 1.5f;
tensor.Row(0, 1)[2] = 2.5f;
seen["tensor"] = new { tensor.DType, tensor.Shape, tensor.Length, tensor.SizeBytes, last = tensor.Span[23], row = tensor.Span[6], under = tensor.Row(1).Length };
seen["scalar"] = buffer.AsTensor<Half>([]).Length;
seen["empty"] = buffer.AsTensor<int>([0, 5]).Span.Length;
seen["named"] = buffer.AsTensor<ushort>([7], "BF16").DType;
seen["refused"] = new[]
{
    Refused(() => buffer.AsTensor<float>([buffer.SizeBytes])),
    Refused(() => buffer.AsTensor<float>([-1])),
    Refused(() => buffer.AsTensor<float>([long.MaxValue, 3])),
    Refused(() => buffer.AsTensor<float>([1], "BF16")),
    Refused(() => buffer.AsTensor<float>([1], "F33")),
    Refused(() => buffer.AsTensor<Guid>([1])),
    Refused(() => buffer.AsTensor<float>([1], offset: 2)),
    Refused(() => _ = tensor[2, 0, 0]),
    Refused(() => _ = tensor[0, 0]),
    Refused(() => buffer.Slice(buffer.SizeBytes - 1, 2)),
    Refused(() => buffer.Slice(-1, 1)),
    Refused(() => buffer.AsSpan<long>(4, 1)),
};

// Disposed of: the worker has it back, and what is left here says so instead of touching what is gone.
var (held, left) = (buffer.Memory, buffer.CreateStream());
var before = await AllocatedAsync();
await buffer.DisposeAsync();
await buffer.DisposeAsync();
seen["freed"] = before - await AllocatedAsync();
seen["afterwards"] = new[]
{
    Refused(() => _ = buffer.Span),
    Refused(() => _ = held.Span),
    Refused(() => left.ReadByte()),
    Refused(() => _ = tensor[0, 0, 0]),
    Refused(() => buffer.CreateStream()),
};
seen["kept_by_a_pin"] = await PinnedAsync();

// What cannot be mapped is not kept.
seen["unmappable"] = await RefusedAsync(() =>
    SharedBuffer.AllocateAsync(memory, new PostMemoryAllocateRequest { SizeBytes = 1 << 20, DeviceId = "sim:0" }));
seen["nothing_kept"] = await AllocatedAsync();

// Its worker dies. The next one has an allocation of somebody else's: that one is not freed.
var lost = await SharedBuffer.AllocateAsync(memory, 1 << 20);
var exited = new TaskCompletionSource();
worker.WorkerExited += (_, _) => exited.TrySetResult();
Process.GetProcessById(worker.Snapshot.ProcessId!.Value).Kill();
await exited.Task;
var again = await memory.PostMemoryAllocateAsync(new PostMemoryAllocateRequest { SizeBytes = 4096, DeviceId = "cpu" });
seen["ids_are_another_workers"] = again.AllocationId != lost.AllocationId;
await lost.DisposeAsync();
seen["anothers_stays"] = (await memory.GetMemoryAllocationAsync(again.AllocationId)).Allocation.SizeBytes;

Console.WriteLine(JsonSerializer.Serialize(seen));

async Task<PostMemoryCopyResponse> CopyAsync(SharedBuffer source, string to, MemoryType type) =>
    await memory.PostMemoryCopyAsync(new PostMemoryCopyRequest
    {
        SourceAllocationId = source.AllocationId,
        DestinationDeviceId = to,
        MemoryType = type,
        Verify = true,
    });

async Task<long> AllocatedAsync() =>
    (await memory.GetMemoryStatusAsync("cpu")).Devices.Single().AllocatedBytes;

async Task<bool> PinnedAsync()
{
    var pinned = await SharedBuffer.AllocateAsync(memory, 4096);
    pinned.Span[9] = 5;
    using var pin = pinned.Memory.Pin();
    await pinned.DisposeAsync();
    return At(pin, 9) == 5;
}

static unsafe byte At(MemoryHandle pin, int place) => ((byte*)pin.Pointer)[place];

static string Refused(Action action)
{
    try
    {
        action();
        return "nothing";
    }
    catch (Exception problem)
    {
        return $"{problem.GetType().Name}: {problem.Message.Split(Environment.NewLine)[0]}";
    }
}

static async Task<string> RefusedAsync(Func<Task> action)
{
    try
    {
        await action();
        return "nothing";
    }
    catch (Exception problem)
    {
        return problem.GetType().Name;
    }
}

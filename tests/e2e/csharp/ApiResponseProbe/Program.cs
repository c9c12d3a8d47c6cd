// Call sites of a host whose answers are an ApiResponse<T>: they compile as they are. Arguments: the worker's command line.
using System.Text.Json;
using ApiResponseHost;
using MemoryWorker.Client;
using MemoryWorker.Hosting;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;
using IPythonWorkerService = ApiResponseHost.IPythonWorkerService;
using IServiceMemory = ApiResponseHost.IServiceMemory;
using PostMemoryAllocateRequest = ApiResponseHost.PostMemoryAllocateRequest;
using PostMemoryClearRequest = ApiResponseHost.PostMemoryClearRequest;
using PostMemoryCopyRequest = ApiResponseHost.PostMemoryCopyRequest;
using PostMemoryDefragmentRequest = ApiResponseHost.PostMemoryDefragmentRequest;
using PostMemoryOptimizeRequest = ApiResponseHost.PostMemoryOptimizeRequest;
using PostMemoryTransferRequest = ApiResponseHost.PostMemoryTransferRequest;
using DeleteMemoryDeallocateRequest = ApiResponseHost.DeleteMemoryDeallocateRequest;

const string Sim = "sim:0";
const long Mib = 1 << 20;
var builder = Host.CreateApplicationBuilder();
builder.Logging.ClearProviders();
builder.Services.AddMemoryWorker(options =>
{
    options.FileName = args[0];
    args.Skip(1).ToList().ForEach(options.Arguments.Add);
    options.StartWithHost = false;
});
builder.Services.AddApiResponseMemory();
using var host = builder.Build();
await host.StartAsync();
var memory = host.Services.GetRequiredService<IServiceMemory>();
var worker = host.Services.GetRequiredService<IPythonWorkerService>();
var seen = new Dictionary<string, object?>();

static object?[] Told(ErrorDetails error) => [error.Code, error.StatusCode, error.Message, error.Details?.GetValueOrDefault("executed")];

void Saw<T>(string name, ApiResponse<T> answer, Func<T, object?>? figure = null)
{
    if (answer.CorrelationId.Length == 0 || answer.Timestamp.Kind != DateTimeKind.Utc || answer.IsSuccess != answer.Error is null)
    {
        throw new InvalidOperationException($"{name}: {answer}");
    }

    seen[name] = answer.IsSuccess
        ? figure is null ? "ok" : figure(answer.Data!)
        : Told(answer.Error!);
}

seen["before"] = ((Dictionary<string, object?>)(await worker.GetWorkerHealthAsync())["memory"])["is_available"];
seen["initialized"] = await worker.InitializeAsync();

Saw("status", await memory.GetMemoryStatusAsync(), one => one.Devices.Select(device => device.DeviceId));
Saw("status of", await memory.GetMemoryStatusAsync(Sim), one => one.Devices.Count);
Saw("status of GPU", await memory.GetMemoryStatusAsync("GPU"), one => one.Devices.Single().DeviceId);
Saw("status device", await memory.GetMemoryStatusDeviceAsync(Sim), one => one.Device.DeviceId);
Saw("status of none", await memory.GetMemoryStatusAsync("cuda:9"));

var gpu = await memory.PostMemoryAllocateAsync(new PostMemoryAllocateRequest { SizeBytes = Mib });
Saw("allocate", gpu, one => new { one.DeviceId, Type = one.MemoryType.ToString() });
var vram = await memory.PostMemoryAllocateAsync(new PostMemoryAllocateRequest { SizeBytes = 2 * Mib, MemoryType = "VRAM" }, Sim);
Saw("allocate VRAM", vram, one => new { one.DeviceId, Type = one.MemoryType.ToString() });
var ram = await memory.PostMemoryAllocateAsync(new PostMemoryAllocateRequest { SizeBytes = Mib, MemoryType = "RAM" });
Saw("allocate RAM", ram, one => new { one.DeviceId, Type = one.MemoryType.ToString() });
var onCpu = await memory.PostMemoryAllocateAsync(new PostMemoryAllocateRequest { SizeBytes = 3 * Mib }, "cpu");
Saw("allocate on the CPU", onCpu, one => one.DeviceId);
Saw("allocate too much", await memory.PostMemoryAllocateAsync(new PostMemoryAllocateRequest { SizeBytes = 65 * Mib }));
Saw("allocate nothing", await memory.PostMemoryAllocateAsync(new PostMemoryAllocateRequest()));
Saw("allocate HBM", await memory.PostMemoryAllocateAsync(new PostMemoryAllocateRequest { SizeBytes = 1, MemoryType = "HBM" }));

Saw("allocate null", await memory.PostMemoryAllocateAsync(new PostMemoryAllocateRequest { SizeBytes = 1, MemoryType = null! }));
Saw("defragment null", await memory.PostMemoryDefragmentAsync(new PostMemoryDefragmentRequest { MemoryType = null! }));
Saw("clear null", await memory.PostMemoryClearAsync(new PostMemoryClearRequest { MemoryType = null! }));
Saw("optimize null", await memory.PostMemoryOptimizeAsync(new PostMemoryOptimizeRequest { Target = null! }));
Saw("transfer null", await memory.PostMemoryTransferAsync(new PostMemoryTransferRequest { SourceDeviceId = null!, TargetDeviceId = null! }));
Saw("copy null", await memory.PostMemoryCopyAsync(new PostMemoryCopyRequest { SourceId = null!, TargetId = Sim }));

Saw("usage", await memory.GetMemoryUsageAsync(), one => one.Devices.Count);
Saw("usage of", await memory.GetMemoryUsageAsync(Sim), one => one.Devices.Single().DeviceId);
Saw("allocations", await memory.GetMemoryAllocationsAsync(), one => one.Allocations.Count);
Saw("allocations of", await memory.GetMemoryAllocationsAsync(Sim), one => one.Allocations.Count);
Saw("allocation", await memory.GetMemoryAllocationAsync(gpu.Data!.AllocationId), one => one.Allocation.SizeBytes);
Saw("allocation of none", await memory.GetMemoryAllocationAsync("alloc-99"));

var transfer = await memory.PostMemoryTransferAsync(
    new PostMemoryTransferRequest { SourceDeviceId = Sim, TargetDeviceId = "cpu", SizeBytes = 2 * Mib });
Saw("transfer", transfer, one => one.SourceAllocationId == vram.Data!.AllocationId && one.Success);
Saw("transfer status", await memory.GetMemoryTransferAsync(transfer.Data!.TransferId), one => one.State.ToString());
Saw("transfer of none", await memory.GetMemoryTransferAsync("transfer-99"));
Saw("transfer of no such size", await memory.PostMemoryTransferAsync(
    new PostMemoryTransferRequest { SourceDeviceId = Sim, TargetDeviceId = "cpu", SizeBytes = 7 }));
var copy = await memory.PostMemoryCopyAsync(new PostMemoryCopyRequest { SourceId = ram.Data!.AllocationId, TargetId = Sim });
Saw("copy", copy, one => one.DestinationDeviceId);
Saw("transfer of one of two", await memory.PostMemoryTransferAsync(
    new PostMemoryTransferRequest { SourceDeviceId = Sim, TargetDeviceId = "cpu", SizeBytes = Mib }));
Saw("copy into an allocation", await memory.PostMemoryCopyAsync(
    new PostMemoryCopyRequest { SourceId = ram.Data.AllocationId, TargetId = gpu.Data.AllocationId }));

Saw("deallocate", await memory.DeleteMemoryDeallocateAsync(
    new DeleteMemoryDeallocateRequest { AllocationId = gpu.Data.AllocationId, Force = true }), one => one.FreedBytes);
Saw("delete", await memory.DeleteMemoryAllocationAsync(vram.Data!.AllocationId), one => one.FreedBytes);
Saw("optimize", await memory.PostMemoryOptimizeAsync(new PostMemoryOptimizeRequest { Target = "GPU" }));
Saw("optimize speed", await memory.PostMemoryOptimizeAsync(new PostMemoryOptimizeRequest { Target = "speed" }));
Saw("defragment", await memory.PostMemoryDefragmentAsync(new PostMemoryDefragmentRequest { MemoryType = "GPU" }));
Saw("defragment of", await memory.PostMemoryDefragmentAsync(new PostMemoryDefragmentRequest(), "cpu"));
var cleared = await memory.PostMemoryClearAsync(new PostMemoryClearRequest { MemoryType = "all", Force = true }, Sim);
Saw("clear of", cleared, one => one.ClearedBytes);
Saw("clear of what is not there", await memory.PostMemoryClearAsync(new PostMemoryClearRequest { MemoryType = "RAM" }, Sim));
Saw("clear", await memory.PostMemoryClearAsync(new PostMemoryClearRequest()), one => one.AllocationsFreed);
Saw("models", await memory.GetModelMemoryStatusAsync());
Saw("model optimization", await memory.TriggerModelMemoryOptimizationAsync(new PostTriggerModelMemoryOptimizationRequest()));
Saw("pressure", await memory.GetMemoryPressureAsync(), one => one.Devices.Count);
Saw("pressure of", await memory.GetMemoryPressureAsync(Sim), one => one.DeviceId);
Saw("analytics", await memory.GetMemoryAnalyticsAsync(), one => one.Actions?.Count > 0);
Saw("optimization", await memory.GetMemoryOptimizationAsync());

object answered = await worker.ExecuteAsync<object, object>(
    PythonWorkerTypes.MEMORY, "allocate", new { size_bytes = 4096, device_id = "cpu" });
dynamic older = answered;
seen["execute"] = new object[] { older.success == true, older.allocation_id, older.data.size_bytes, older.error is null };
dynamic refused = await worker.ExecuteAsync<object, dynamic>(PythonWorkerTypes.Memory, "memory.allocate", new { device_id = "cpu" });
seen["execute refused"] = new object[] { refused.success != true, (string)refused.error.code, refused.error.status_code };
dynamic unknown = await worker.ExecuteAsync<object, dynamic>(PythonWorkerTypes.MEMORY, "polish_memory", new { });
seen["execute unknown"] = (string)unknown.error.message;
dynamic elsewhere = await worker.ExecuteAsync<object, dynamic>("inference", "run", new { });
seen["execute elsewhere"] = (string)elsewhere.error.message;
dynamic bare = await worker.ExecuteAsync<object, dynamic>(PythonWorkerTypes.MEMORY, "allocate", "4096");
seen["execute bare"] = (string)bare.error.message;
dynamic unworded = await worker.ExecuteAsync<object, dynamic>(PythonWorkerTypes.MEMORY, "run", new { action = new { name = "status" } });
seen["execute no word"] = (string)unworded.error.message;
var whole = new { request_id = "mine", action = "memory.get_status", data = new { device_id = Sim } };
var typed = await worker.ExecuteAsync<object, StatusAnswer>(PythonWorkerTypes.MEMORY, JsonSerializer.Serialize(whole), whole);
seen["execute typed"] = typed.Devices.Single().DeviceId;
try
{
    await worker.ExecuteAsync<object, StatusAnswer>(PythonWorkerTypes.MEMORY, "get_status", new { device_id = "nope" });
}
catch (WorkerRequestException problem)
{
    seen["execute typed refused"] = problem.Code;
}

seen["raw"] = JsonDocument.Parse(await worker.ExecuteRawAsync(PythonWorkerTypes.MEMORY, "get_pressure")).RootElement.GetProperty("success");
seen["available"] = await worker.IsWorkerAvailableAsync(PythonWorkerTypes.MEMORY);
seen["other available"] = await worker.IsWorkerAvailableAsync("inference");
seen["health"] = ((Dictionary<string, object?>)(await worker.GetWorkerHealthAsync())["memory"])["state"];
await worker.ShutdownAsync();
seen["shut down"] = await worker.IsWorkerAvailableAsync(PythonWorkerTypes.MEMORY);
seen["initialized again"] = await worker.InitializeAsync();
Saw("after shutdown", await memory.GetMemoryStatusAsync());
await host.StopAsync();
Console.WriteLine(JsonSerializer.Serialize(seen));

internal sealed record StatusAnswer(IReadOnlyList<StatusAnswer.Device> Devices)
{
    internal sealed record Device(string DeviceId);
}

using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;
using MemoryWorker.Testing;
using Xunit;

namespace Consumer;

public sealed class ImageCacheTests
{
    private const long Image = 16 << 20;
    private readonly InMemoryWorker _worker = new(
        [new FakeDevice("cuda:0", 2 * Image), new FakeDevice("cpu", 8 * Image) { Kind = DeviceKind.Cpu }]);

    [Fact]
    public async Task AFullGpuSendsImagesToTheCpu()
    {
        var cache = new ImageCache(_worker.Memory);
        await cache.AddAsync(Image);
        await cache.AddAsync(Image);
        var third = await cache.AddAsync(Image);
        Assert.Equal("cpu", (await _worker.Memory.GetMemoryAllocationAsync(third)).Allocation.DeviceId);
    }

    [Fact]
    public async Task OutOfMemoryCanBeFakedWithoutFillingAnything()
    {
        _worker.Fail(WireActions.Allocate, ErrorCode.OutOfMemory);
        var only = await new ImageCache(_worker.Memory).AddAsync(1);
        Assert.Equal("cpu", (await _worker.Memory.GetMemoryAllocationAsync(only)).Allocation.DeviceId);
        Assert.Equal(["memory.allocate", "memory.allocate"], _worker.Requests.Take(2).Select(one => one.Action));
    }

    [Fact]
    public async Task OtherRefusalsComeThrough()
    {
        _worker.Fail(WireActions.Allocate, ErrorCode.DeviceUnavailable);
        var problem = await Assert.ThrowsAsync<WorkerRequestException>(() => new ImageCache(_worker.Memory).AddAsync(1));
        Assert.Equal(ErrorCode.DeviceUnavailable, problem.ErrorCode);
    }

    [Fact]
    public async Task ATransferIsReportedAndMovesTheBytes()
    {
        var cache = new ImageCache(_worker.Memory);
        var source = await cache.AddAsync(Image);
        var seen = new List<TransferProgress>();
        var moved = await cache.DemoteAsync(source, new Into<TransferProgress>(seen));
        Assert.Equal(1.0, seen[^1].Fraction);
        var usage = await _worker.Memory.GetMemoryUsageAsync();
        Assert.Equal([0L, Image], usage.Devices.Select(one => one.AllocatedBytes));
        Assert.NotEqual(source, moved);
    }

    private sealed class Into<T>(List<T> seen) : IProgress<T>
    {
        public void Report(T value) => seen.Add(value);
    }
}

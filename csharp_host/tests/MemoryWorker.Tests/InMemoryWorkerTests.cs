using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;
using MemoryWorker.Testing;

namespace MemoryWorker.Tests;

/// <summary>The in-memory worker, as a test of a host uses it.</summary>
public sealed class InMemoryWorkerTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(1 << 20)]
    public async Task WhatIsAllocatedIsMissing(int sizeBytes)
    {
        await using var worker = new InMemoryWorker([new FakeDevice("cuda:0", 1 << 20)]);
        var made = await worker.Memory.PostMemoryAllocateAsync(new() { SizeBytes = sizeBytes });
        Assert.Equal((1 << 20) - sizeBytes, made.AvailableBytes);
    }

    [Fact]
    public async Task TooMuchIsRefused()
    {
        await using var worker = new InMemoryWorker([new FakeDevice("cuda:0", 1)]);
        var problem = await Assert.ThrowsAsync<WorkerRequestException>(
            () => worker.Memory.PostMemoryAllocateAsync(new() { SizeBytes = 2 }));
        Assert.Equal(ErrorCode.OutOfMemory, problem.ErrorCode);
        Assert.Equal(1, problem.Details.GetProperty("available_bytes").GetInt64());
    }
}

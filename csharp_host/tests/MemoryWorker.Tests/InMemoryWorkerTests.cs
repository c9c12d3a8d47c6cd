using System.Text.Json;
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
    public async Task ANodesDevicesAreDevices()
    {
        await using var worker = new InMemoryWorker([new FakeDevice("node-1/cuda:0", 8), new FakeDevice("node-2/cuda:0", 8)]);
        var status = await worker.Memory.GetMemoryStatusAsync();
        Assert.Equal(["node-1", "node-2"], status.Devices.Select(one => one.NodeId()));
        var made = await worker.Memory.PostMemoryAllocateAsync(new() { SizeBytes = 1, DeviceId = "node-2/cuda:0" });
        Assert.Equal("node-2", Nodes.NodeOf(made.DeviceId));
        Assert.True(Nodes.NodeOf("cuda:0") is null);
    }

    [Fact]
    public async Task ADrainedNodeSaysWhatBecameOfEverything()
    {
        await using var worker = new InMemoryWorker([new FakeDevice("node-1/cuda:0", 8)]);
        const string answer = """
            {"node": "node-1", "moved": [], "unloaded": [], "kept": [{"id": "node-1/alloc-1", "reason": "pinned"}], "cost_ms": null}
            """;
        worker.Answer(WireActions.FleetDrain, _ => JsonSerializer.Deserialize<JsonElement>(answer));
        var drained = await worker.Memory.DrainNodeAsync("node-1");
        Assert.Equal(["node-1/alloc-1"], drained.Kept.Select(one => one.Id));
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

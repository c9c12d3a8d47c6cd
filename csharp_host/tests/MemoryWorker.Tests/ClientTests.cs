using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;
using MemoryWorker.Testing;

namespace MemoryWorker.Tests;

/// <summary>The client on a real process that needs nothing but a Python: <c>dotnet test</c> is enough, without PyPI.</summary>
public sealed class ClientTests
{
    private static readonly string? Python = Environment.GetEnvironmentVariable("MEMORY_WORKER_PYTHON");

    [Fact]
    public async Task AnAnswerComesBack()
    {
        await using var worker = new PythonWorkerService(FakeWorkerProcess.Options(Python));
        var answer = await worker.ExecuteAsync(WireAction.Plain("fake.echo"), JsonData.Parse("""{"value": 42}"""));
        Assert.Equal(42, answer.Value.GetProperty("value").GetInt32());
    }

    [Fact]
    public async Task MemoryIsHandedOutAndBack()
    {
        await using var worker = new PythonWorkerService(FakeWorkerProcess.Options(Python));
        var memory = new ServiceMemory(worker);
        var made = await memory.PostMemoryAllocateAsync(new() { SizeBytes = 64 });
        Assert.Equal(64, made.SizeBytes);
        var freed = await memory.DeleteMemoryAllocationAsync(made.AllocationId);
        Assert.Equal(made.AllocationId, freed.AllocationId);
    }

    [Fact]
    public async Task ARefusalSaysWhy()
    {
        await using var worker = new PythonWorkerService(FakeWorkerProcess.Options(Python));
        var refused = JsonData.Parse("""{"code": "model_busy"}""");
        var problem = await Assert.ThrowsAsync<WorkerRequestException>(
            () => worker.ExecuteAsync(WireAction.Plain("fake.refuse"), refused));
        Assert.Equal(ErrorCode.ModelBusy, problem.ErrorCode);
    }

    [Fact]
    public async Task AWorkerThatDiesIsReplaced()
    {
        await using var worker = new PythonWorkerService(FakeWorkerProcess.Options(Python));
        var end = JsonData.Parse("""{"code": 3}""");
        var problem = await Assert.ThrowsAsync<WorkerExitedException>(() => worker.ExecuteAsync(WireAction.Plain("fake.exit"), end));
        Assert.Equal(3, problem.ExitCode);
        Assert.True((await new ServiceMemory(worker).PingAsync()).UptimeMs > 0);
    }

    [Fact]
    public async Task AWorkerThatDoesNotStartSaysWhy()
    {
        var options = FakeWorkerProcess.Options(Python, "--traceback") with { Restart = new() { MaxRestarts = 0 } };
        await using var worker = new PythonWorkerService(options);
        var problem = await Assert.ThrowsAsync<WorkerStartException>(() => worker.StartAsync());
        Assert.Contains("the fake worker was told to fail", problem.Message);
    }
}

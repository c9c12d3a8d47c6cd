using System.Diagnostics;
using MemoryWorker.Client;

// A newcomer's first program: it has the package, and perhaps a Python. Arguments: the folder for the environment,
// "-m worker" or nothing, a folder of wheels or nothing, and milliseconds for each step.
var watch = Stopwatch.StartNew();
try
{
    var wanted = new PythonEnvironmentOptions { Folder = args[0], WheelFolder = args is [_, _, { Length: > 0 } wheels, ..] ? wheels : null };
    if (args is [.., var step] && int.TryParse(step, out var milliseconds))
    {
        wanted = wanted with { StepTimeout = TimeSpan.FromMilliseconds(milliseconds) };
    }

    var python = await PythonEnvironment.PrepareAsync(wanted, new Told());
    var prepared = watch.ElapsedMilliseconds;
    var options = python.Apply(new PythonWorkerOptions());
    if (args is [_, "-m worker", ..])
    {
        options = options with { Arguments = ["-m", "worker"], Restart = new() { MaxRestarts = 0 } };
        PythonEnvironment.CheckFolder(options);
    }

    await using var worker = new PythonWorkerService(options);
    var memory = new ServiceMemory(worker);
    var made = await memory.PostMemoryAllocateAsync(new() { SizeBytes = 1 << 20, DeviceId = "cpu" });
    Console.WriteLine($"answer {made.AllocationId} {made.ActualBytes} made={python.WasMade} python={python.PythonVersion} worker={python.WorkerVersion}");
    Console.WriteLine($"times {prepared} {watch.ElapsedMilliseconds}");
    return 0;
}
catch (PythonEnvironmentException problem)
{
    Console.WriteLine($"{problem.Problem}: {problem.Message}");
    return 3;
}

internal sealed class Told : IProgress<string>
{
    public void Report(string value) => Console.Error.WriteLine(value);
}

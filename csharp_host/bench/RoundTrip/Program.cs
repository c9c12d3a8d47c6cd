// Round trips of worker.ping against the same bytes through `cat`, in turns. Arguments: PYTHON FOLDER CALLS ROUNDS.
// Prints one JSON object; benchmarks/csharp_round_trip.py runs it and says what it means. Built for Release only.
using System.Diagnostics;
using System.Globalization;
using System.Reflection;
using System.Text;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

const int InFlight = 64;
if (typeof(ServiceMemory).Assembly.GetCustomAttribute<DebuggableAttribute>() is { IsJITOptimizerDisabled: true })
{
    Console.Error.WriteLine("this is a Debug build: its figures say nothing (dotnet run -c Release)");
    return 1;
}

var (python, folder, calls, rounds) = (args[0], args[1], int.Parse(args[2]), int.Parse(args[3]));
var line = Encoding.UTF8.GetBytes("{\"request_id\":\"0123456789ab-1000\",\"action\":\"worker.ping\",\"data\":{},\"meta\":{\"deadline_ms\":120000}}\n");

using var cat = Process.Start(new ProcessStartInfo("cat")
{
    RedirectStandardInput = true,
    RedirectStandardOutput = true,
    UseShellExecute = false,
})!;
await using var worker = new PythonWorkerService(new PythonWorkerOptions
{
    FileName = python,
    WorkingDirectory = folder,
    Arguments = ["-m", "worker"], // The one that lies in the folder.
});
var memory = new ServiceMemory(worker);
await memory.PingAsync();

var samples = new Dictionary<string, List<double>> { ["cat"] = [], ["cat_async"] = [], ["ping"] = [] };
var endless = new WorkerCallOptions { Timeout = Timeout.InfiniteTimeSpan };
var rates = new Dictionary<string, List<double>> { ["with_deadline"] = [], ["without_deadline"] = [] };
double bytesPerCall = 0;
for (var round = 0; round <= rounds; round++)
{
    var kept = round > 0; // The first round warms up.
    await MeasureAsync("cat", kept, () => { ThroughCat(); return Task.CompletedTask; });
    await MeasureAsync("cat_async", kept, ThroughCatAsync);
    var before = GC.GetTotalAllocatedBytes(precise: true);
    await MeasureAsync("ping", kept, () => memory.PingAsync());
    bytesPerCall = (GC.GetTotalAllocatedBytes(precise: true) - before) / (double)calls;
    for (var turn = 0; turn < 4; turn++) // In turns, so that what else the machine does hits both alike.
    {
        await MeasureRateAsync("with_deadline", kept, () => memory.PingAsync());
        await MeasureRateAsync(
            "without_deadline", kept, () => worker.ExecuteAsync(WireActions.WorkerPing, new PingParams(), endless));
    }
}

var figures = samples
    .SelectMany(one => new[] { (one.Key + "_p50_us", At(one.Value, 0.5)), (one.Key + "_p99_us", At(one.Value, 0.99)) })
    .Concat(rates.Select(one => ($"calls_per_second_{one.Key}", At(one.Value, 0.5))))
    .Append(("deadline_ratio", At(rates["with_deadline"].Zip(rates["without_deadline"], (one, other) => one / other).ToList(), 0.5)))
    .Append(("allocated_bytes_per_call", bytesPerCall))
    .Append(("thread_pool_threads", ThreadPool.ThreadCount));
Console.WriteLine(
    "{" + string.Join(", ", figures.Select(one => $"\"{one.Item1}\": {one.Item2.ToString("0.##", CultureInfo.InvariantCulture)}")) + "}");
cat.StandardInput.Close();
cat.WaitForExit(5000);
return 0;

async Task MeasureAsync(string name, bool kept, Func<Task> call)
{
    for (var one = 0; one < calls; one++)
    {
        var start = Stopwatch.GetTimestamp();
        await call();
        if (kept)
        {
            samples[name].Add(Stopwatch.GetElapsedTime(start).TotalMicroseconds);
        }
    }
}

async Task MeasureRateAsync(string name, bool kept, Func<Task> call)
{
    var start = Stopwatch.GetTimestamp();
    await Task.WhenAll(Enumerable.Range(0, InFlight).Select(_ => ManyAsync(calls / InFlight, call)));
    if (kept)
    {
        rates[name].Add(calls / InFlight * InFlight / Stopwatch.GetElapsedTime(start).TotalSeconds);
    }
}

static async Task ManyAsync(int times, Func<Task> call)
{
    for (var one = 0; one < times; one++)
    {
        await call();
    }
}

void ThroughCat()
{
    Span<byte> answer = stackalloc byte[line.Length];
    cat.StandardInput.BaseStream.Write(line);
    cat.StandardOutput.BaseStream.ReadExactly(answer);
}

async Task ThroughCatAsync()
{
    var answer = new byte[line.Length];
    await cat.StandardInput.BaseStream.WriteAsync(line);
    await cat.StandardOutput.BaseStream.ReadExactlyAsync(answer);
}

static double At(List<double> values, double part)
{
    var sorted = values.Order().ToList();
    return sorted[(int)Math.Min(sorted.Count - 1, sorted.Count * part)];
}

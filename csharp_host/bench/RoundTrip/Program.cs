// Round trips of worker.ping against the same bytes through `cat`, in turns. Arguments: PYTHON FOLDER CALLS ROUNDS.
// Prints one JSON object; benchmarks/csharp_round_trip.py runs it and says what it means.
using System.Diagnostics;
using System.Globalization;
using System.Text;
using MemoryWorker.Client;

const int InFlight = 64;
var (python, folder, calls, rounds) = (args[0], args[1], int.Parse(args[2]), int.Parse(args[3]));
var line = Encoding.UTF8.GetBytes("{\"request_id\":\"0123456789ab-1000\",\"action\":\"worker.ping\",\"data\":{},\"meta\":{\"deadline_ms\":120000}}\n");

using var cat = Process.Start(new ProcessStartInfo("cat")
{
    RedirectStandardInput = true,
    RedirectStandardOutput = true,
    UseShellExecute = false,
})!;
await using var worker = new PythonWorkerService(new PythonWorkerOptions { FileName = python, WorkingDirectory = folder });
var memory = new ServiceMemory(worker);
await memory.PingAsync();

var samples = new Dictionary<string, List<double>> { ["cat"] = [], ["cat_async"] = [], ["ping"] = [] };
var rates = new List<double>();
double bytesPerCall = 0;
for (var round = 0; round <= rounds; round++)
{
    var kept = round > 0; // The first round warms up.
    await MeasureAsync("cat", kept, () => { ThroughCat(); return Task.CompletedTask; });
    await MeasureAsync("cat_async", kept, ThroughCatAsync);
    var before = GC.GetTotalAllocatedBytes(precise: true);
    await MeasureAsync("ping", kept, () => memory.PingAsync());
    bytesPerCall = (GC.GetTotalAllocatedBytes(precise: true) - before) / (double)calls;
    var start = Stopwatch.GetTimestamp();
    await Task.WhenAll(Enumerable.Range(0, InFlight).Select(_ => PingManyAsync(calls / InFlight)));
    if (kept)
    {
        rates.Add(calls / InFlight * InFlight / Stopwatch.GetElapsedTime(start).TotalSeconds);
    }
}

var figures = samples
    .SelectMany(one => new[] { (one.Key + "_p50_us", At(one.Value, 0.5)), (one.Key + "_p99_us", At(one.Value, 0.99)) })
    .Append(("calls_per_second_64_in_flight", At(rates, 0.5)))
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

async Task PingManyAsync(int times)
{
    for (var one = 0; one < times; one++)
    {
        await memory.PingAsync();
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
    values.Sort();
    return values[(int)Math.Min(values.Count - 1, values.Count * part)];
}

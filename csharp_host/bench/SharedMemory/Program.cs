// The first write into fresh shared memory against later ones, in turns.
// Arguments: PYTHON FOLDER MIB ROUNDS. Prints one JSON object of medians, GiB/s; benchmarks/csharp_shared_memory.py
// runs it and says what it means.
using System.Diagnostics;
using System.Globalization;
using MemoryWorker.Client;

var (python, folder, bytes, rounds) =
    (args[0], args[1], long.Parse(args[2], CultureInfo.InvariantCulture) << 20, int.Parse(args[3], CultureInfo.InvariantCulture));
await using var worker = new PythonWorkerService(new PythonWorkerOptions
{
    FileName = python,
    WorkingDirectory = folder,
    Arguments = ["-m", "worker"],
});
var memory = new ServiceMemory(worker);
await worker.StartAsync();

var figures = new Dictionary<string, List<double>>();
for (var round = 0; round <= rounds; round++)
{
    foreach (var (name, prefault, waits) in new[] { ("none", false, false), ("beside", true, false), ("before", true, true) })
    {
        await using var buffer = await SharedBuffer.AllocateAsync(
            memory, new PostMemoryAllocateRequest { SizeBytes = bytes }, prefault);
        var start = Stopwatch.GetTimestamp();
        if (waits) // What a host does meanwhile: reads a file, decodes a picture.
        {
            await buffer.Prefaulted;
            Keep("prefault", start, round);
        }

        start = Stopwatch.GetTimestamp();
        Fill(buffer);
        Keep($"first_write_{name}", start, round);
        start = Stopwatch.GetTimestamp();
        Fill(buffer);
        Keep($"later_write_{name}", start, round);
    }
}

Console.WriteLine(
    "{" + string.Join(", ", figures.Select(one => $"\"{one.Key}\": {Median(one.Value).ToString("0.###", CultureInfo.InvariantCulture)}")) + "}");

void Keep(string name, long start, int round)
{
    var speed = bytes / Stopwatch.GetElapsedTime(start).TotalSeconds / (1 << 30);
    if (round > 0) // The first round warms up.
    {
        (figures.TryGetValue(name, out var kept) ? kept : figures[name] = []).Add(speed);
    }
}

static void Fill(SharedBuffer buffer)
{
    const int Piece = 1 << 20;
    for (long offset = 0; offset < buffer.SizeBytes; offset += Piece)
    {
        buffer.AsSpan<byte>(offset, Piece).Fill(7);
    }
}

static double Median(List<double> values) => values.Order().ElementAt(values.Count / 2);

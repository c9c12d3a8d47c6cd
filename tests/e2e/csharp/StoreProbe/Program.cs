// A host that keeps its own memory in the worker's stores and says as JSON what it saw. Arguments: PYTHON REPOSITORY FOLDER.
using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

await using var worker = new PythonWorkerService(new PythonWorkerOptions
{
    FileName = args[0],
    WorkingDirectory = args[1],
    Arguments = ["-m", "worker", "--store-folder", args[2]],
});
var stores = new MemoryStores(worker);
var seen = new Dictionary<string, object?>();
var made = 0;
var answer = (JsonTypeInfo<Answer>)JsonSerializerOptions.Default.GetTypeInfo(typeof(Answer));

Task<Answer> MakeAsync(CancellationToken cancellationToken)
{
    made++;
    return Task.FromResult(new Answer($"made {made}", [made]));
}

// A cache opens with what is put first, and what it returns is a copy.
var answers = stores.Store("answers", StoreKind.Cache, new StoreOptions { MaxBytes = 1 << 20, TtlMs = 60_000 });
seen["nothing_yet"] = await answers.GetAsync("q", answer);
var first = await answers.GetOrMakeAsync("q", MakeAsync, answer, tags: ["en"]);
var second = await answers.GetOrMakeAsync("q", MakeAsync, answer);
seen["made_once"] = made == 1 && first.Text == second.Text && second.Numbers.Length == 1 && first != second;
var other = stores.Store("answers", StoreKind.Cache, scope: new MemoryScope("ann", "p"));
seen["scopes"] = await other.GetAsync("q", answer) is null;
var stats = await stores.GetStatsAsync("answers");
seen["stats"] = new { stats.EntryCount, stats.Hits, stats.LimitBytes, Priced = stats.PriceMsPerMib is not null };
var large = await answers.GetOrMakeAsync("large", _ => Task.FromResult(new Answer(new string('x', 2 << 20), [])), answer);
seen["too_large_is_returned"] = large.Text.Length == 2 << 20 && await answers.GetAsync("large", answer) is null;
seen["deleted"] = new object[] { await answers.DeleteTagAsync("en"), await answers.DeleteAsync("q"), await answers.DeletePrefixAsync("z") is 0 };

// What was put as an allocation's bytes is no value, and is not taken for one that is null.
var memory = new ServiceMemory(worker);
var shared = await memory.PostMemoryAllocateAsync(new() { SizeBytes = 16, MemoryType = MemoryType.Shared });
await stores.PutAsync(new() { Store = "answers", Key = "bytes", AllocationId = shared.AllocationId });
var asBytes = await stores.GetAsync(new() { Store = "answers", Key = "bytes" });
seen["bytes"] = new object?[] { asBytes.Value, asBytes.SharedMemory?.SizeBytes };
seen["bytes_as_values"] = new[]
{
    await RefusedAsync(() => answers.GetAsync("bytes", answer)), await RefusedAsync(() => answers.GetOrMakeAsync("bytes", MakeAsync, answer)!),
};

// A worker that dies takes what is in memory with it; what persists is there again, and nobody has to open anything.
var results = stores.Store("results", StoreKind.Cache, new StoreOptions { Preset = StorePreset.Results }, new MemoryScope("ann"));
await results.PutAsync("r", new Answer("kept", [1, 2, 3]), answer, TimeSpan.FromSeconds(5));
await answers.PutAsync("m", new Answer("lost", []), answer);
using (var process = Process.GetProcessById((int)worker.Snapshot.ProcessId!))
{
    process.Kill();
    await process.WaitForExitAsync();
}

seen["persists"] = (await results.GetAsync("r", answer))?.Numbers.Length;
seen["lost"] = await answers.GetAsync("m", answer) is null;
await answers.PutAsync("m", new Answer("again", []), answer);
seen["open_again"] = (await answers.GetAsync("m", answer))?.Text;

var forgotten = await stores.DeleteScopeAsync("ann");
seen["forgotten"] = new { forgotten.Stores, forgotten.DeletedEntries, Freed = forgotten.FreedBytes > 0 };
var closed = await stores.CloseAsync("answers");
seen["closed"] = closed.ClearedBytes > 0 && closed.ReturnedBytes > 0;
try
{
    await stores.ClearAsync("answers");
}
catch (WorkerRequestException refused)
{
    seen["refused"] = refused.Code;
}

Console.WriteLine(JsonSerializer.Serialize(seen));

static async Task<string> RefusedAsync(Func<Task<Answer?>> ask)
{
    try
    {
        return $"{await ask()}";
    }
    catch (JsonException problem)
    {
        return problem.Message;
    }
}

internal sealed record Answer(string Text, int[] Numbers);

using System.Text.Json;
using System.Text.Json.Nodes;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;
using Worker = MemoryWorker.Client;

namespace ApiResponseHost;

/// <inheritdoc cref="IPythonWorkerService"/>
internal sealed class PythonWorkerService(Worker.IPythonWorkerService worker) : IPythonWorkerService
{
    private static readonly JsonSerializerOptions Wire = new(JsonSerializerDefaults.Web)
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower, // So that SizeBytes is size_bytes, and size_bytes itself.
    };

    public async Task<TResponse> ExecuteAsync<TRequest, TResponse>(
        PythonWorkerTypes type, string command, TRequest request, CancellationToken cancellationToken = default)
    {
        if (typeof(TResponse) == typeof(object))
        {
            return (TResponse)(object)new WorkerAnswer(await ReplyAsync(type, command, request, cancellationToken));
        }

        var data = await AskAsync(type, command, request, cancellationToken);
        return data.Deserialize<TResponse>(Wire)!;
    }

    public async Task<string> ExecuteRawAsync(
        PythonWorkerTypes type, string command, object? request = null, CancellationToken cancellationToken = default) =>
        (await ReplyAsync(type, command, request, cancellationToken)).GetRawText();

    public async Task<bool> IsWorkerAvailableAsync(PythonWorkerTypes type)
    {
        try
        {
            await AskAsync(type, WireActions.WorkerPing.Name, null as object, CancellationToken.None);
            return true;
        }
        catch (Exception problem) when (ErrorDetails.Of(problem) is not null)
        {
            return false;
        }
    }

    public async Task<Dictionary<string, object>> GetWorkerHealthAsync()
    {
        var isAvailable = await IsWorkerAvailableAsync(PythonWorkerTypes.Memory);
        var seen = worker.Snapshot;
        var health = new Dictionary<string, object?>
        {
            ["is_available"] = isAvailable,
            ["state"] = seen.State.ToString(),
            ["process_id"] = seen.ProcessId,
            ["version"] = seen.WorkerVersion,
            ["starts"] = seen.Starts,
            ["exits"] = seen.Exits,
            ["in_flight"] = seen.InFlight,
        };
        return new() { [PythonWorkerTypes.Memory.Name] = health };
    }

    public async Task<bool> InitializeAsync()
    {
        try
        {
            await worker.StartAsync();
            return true;
        }
        catch (Exception problem) when (ErrorDetails.Of(problem) is not null)
        {
            return false;
        }
    }

    public async Task ShutdownAsync() => await worker.DisposeAsync();

    private async Task<JsonElement> ReplyAsync<TRequest>(
        PythonWorkerTypes type, string command, TRequest request, CancellationToken cancellationToken)
    {
        try
        {
            var data = await AskAsync(type, command, request, cancellationToken);
            return JsonSerializer.SerializeToElement(new { Success = true, Data = data }, Wire);
        }
        catch (Exception problem) when (ErrorDetails.Of(problem) is { } error)
        {
            return JsonSerializer.SerializeToElement(new { Success = false, Error = error }, Wire);
        }
    }

    private async Task<JsonElement> AskAsync<TRequest>(
        PythonWorkerTypes type, string command, TRequest request, CancellationToken cancellationToken)
    {
        if (type != PythonWorkerTypes.Memory)
        {
            throw new NotMappedException($"there is no worker '{type}' here: this one is '{PythonWorkerTypes.Memory}'", "unsupported");
        }

        var data = Object(JsonSerializer.SerializeToNode(request, Wire), "the request");
        if (data["action"] is { } inside)
        {
            command = inside is JsonValue one && one.TryGetValue<string>(out var named)
                ? named
                : throw new NotMappedException($"action is {inside.ToJsonString()}, and the worker takes a word: \"memory.get_status\"");
            data = Object(data["data"], "its data");
        }

        var sent = new JsonData(JsonSerializer.SerializeToElement(data));
        var answer = await worker.ExecuteAsync(Action(command), sent, cancellationToken: cancellationToken);
        return answer.Value;
    }

    private static JsonObject Object(JsonNode? said, string what) => said switch
    {
        null => [],
        JsonObject one => one,
        _ => throw new NotMappedException($"{what} is {said.GetValueKind()}, and the worker takes an object: new {{ size_bytes = 4096 }}"),
    };

    /// <summary>Finds the action that a command means; the worker refuses one that it has not, and names those that it has.</summary>
    private static WireAction<JsonData, JsonData> Action(string command)
    {
        const string Word = "memory";
        var name = command.StartsWith($"{Word}_", StringComparison.Ordinal) ? command[(Word.Length + 1)..]
            : command.EndsWith($"_{Word}", StringComparison.Ordinal) ? command[..^(Word.Length + 1)]
            : command;
        return WireAction.Plain(name.Contains('.', StringComparison.Ordinal) ? name : $"{Word}.{name}");
    }
}

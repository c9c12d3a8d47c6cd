using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;
using Microsoft.Extensions.Primitives;

namespace WebApi;

/// <summary>The worker's events as server-sent events, over its restarts too, until the reader leaves or this host ends.</summary>
internal static class EventStream
{
    /// <summary>How often a comment is sent, so that a reader that has gone is noticed and proxies keep the connection.</summary>
    private static readonly TimeSpan Quiet = TimeSpan.FromSeconds(15);

    private const string FiguresEvery = "figures_every_ms";

    private static readonly Dictionary<string, EventName> Names = WireEvents.All.ToDictionary(one => one.ToWord());

    /// <summary>How often figures may come, and do where nothing is said, as the document has it.</summary>
    private static readonly JsonNode Pace =
        JsonNode.Parse(Operations.Document)!["paths"]!["/api/events"]!["get"]!["parameters"]!.AsArray()
            .Single(one => one!["name"]!.GetValue<string>() == FiguresEvery)!["schema"]!;

    public static async Task WriteAsync(
        HttpContext context, IServiceMemory memory, IPythonWorkerService worker, IHostApplicationLifetime host)
    {
        var wanted = context.Request.Query["event"].Select(Named).ToList();
        var pace = Every(context.Request.Query[FiguresEvery], wanted);
        await worker.StartAsync(context.RequestAborted); // Where there is none, and can be none, that is the answer.
        using var ends = CancellationTokenSource.CreateLinkedTokenSource(context.RequestAborted, host.ApplicationStopping);
        var response = context.Response;
        response.ContentType = "text/event-stream";
        response.Headers.CacheControl = "no-cache";
        response.Headers["X-Accel-Buffering"] = "no"; // For nginx, which would collect them.
        await using var events = (wanted.Count == 0
            ? memory.GetMemoryEventsAsync(null, ends.Token)
            : worker.ReadEventsAsync(wanted, pace, ends.Token)).GetAsyncEnumerator(ends.Token);
        using var quiet = new PeriodicTimer(Quiet);
        var silence = quiet.WaitForNextTickAsync(ends.Token).AsTask();
        var coming = events.MoveNextAsync().AsTask();
        try
        {
            await SendAsync(": events follow\n\n");
            while (true)
            {
                if (await Task.WhenAny(coming, silence) == silence)
                {
                    await silence;
                    await SendAsync(":\n\n");
                    silence = quiet.WaitForNextTickAsync(ends.Token).AsTask();
                }
                else if (await coming)
                {
                    await SendAsync(Text(events.Current));
                    coming = events.MoveNextAsync().AsTask();
                }
                else
                {
                    return;
                }
            }
        }
        catch (Exception) when (ends.IsCancellationRequested)
        {
            // The reader has left, or the host ends: the response ends with it, however that showed.
        }
        catch (WorkerException problem) when (response.HasStarted)
        {
            await response.WriteAsync($": {problem.Code}\n\n"); // Too late for another status; a reader that comes again is told.
        }
        finally
        {
            await ends.CancelAsync();
            await ((Task)coming).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing); // Events can't be let go while one is awaited.
        }

        async Task SendAsync(string text)
        {
            await response.WriteAsync(text, ends.Token);
            await response.Body.FlushAsync(ends.Token);
        }
    }

    private static EventName Named(string? text) => Names.TryGetValue(text ?? string.Empty, out var name)
        ? name
        : throw new BadHttpRequestException($"there is no event '{text}'; there are {string.Join(", ", Names.Keys)}");

    private static TimeSpan Every(StringValues text, List<EventName> wanted)
    {
        if (text.Count == 0)
        {
            return TimeSpan.FromMilliseconds(Pace["default"]!.GetValue<long>());
        }

        var (least, most) = (Pace["minimum"]!.GetValue<long>(), Pace["maximum"]!.GetValue<long>());
        if (!long.TryParse(text.ToString(), CultureInfo.InvariantCulture, out var every) || every < least || every > most)
        {
            throw new BadHttpRequestException($"{FiguresEvery} is '{text}', and a whole number from {least} to {most} is expected");
        }

        return wanted.Contains(EventName.MemoryFigures)
            ? TimeSpan.FromMilliseconds(every)
            : throw new BadHttpRequestException(
                $"{FiguresEvery} is how often {WireEvents.Figures} comes, which is not asked for: add event={WireEvents.Figures}");
    }

    private static string Text(WorkerEvent one)
    {
        var name = one is UnknownEvent unknown ? unknown.Text : one.Name.ToWord();
        var data = one.GetType().GetProperty(nameof(UnknownEvent.Data))!.GetValue(one); // Each event has its own type of it.
        return $"id: {one.Sequence}\nevent: {name}\ndata: {JsonSerializer.Serialize(data, WireJsonOptions.Value)}\n\n";
    }
}

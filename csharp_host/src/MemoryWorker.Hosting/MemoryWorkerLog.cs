using System.Diagnostics;
using MemoryWorker.Client;
using Microsoft.Extensions.Logging;

namespace MemoryWorker.Hosting;

/// <summary>What is logged, with event ids that stay.</summary>
internal static class MemoryWorkerLog
{
    private static readonly Action<ILogger, int, string, Exception?> StartedMessage = LoggerMessage.Define<int, string>(
        LogLevel.Information, new EventId(1, "WorkerStarted"), "The memory worker runs as process {ProcessId}, version {Version}");

    private static readonly Action<ILogger, int, string, Exception?> RestartedMessage = LoggerMessage.Define<int, string>(
        LogLevel.Warning, new EventId(2, "WorkerRestarted"), "The memory worker was replaced by process {ProcessId}, version {Version}");

    private static readonly Action<ILogger, string, int, string, Exception?> ExitedMessage = LoggerMessage.Define<string, int, string>(
        LogLevel.Error, new EventId(3, "WorkerExited"), "{Reason}; {LostAllocations} allocations were lost; restart: {Restart}");

    private static readonly Action<ILogger, Exception?> StartFailedMessage = LoggerMessage.Define(
        LogLevel.Error, new EventId(4, "WorkerStartFailed"), "The memory worker could not be started");

    private static readonly Action<ILogger, string, Exception?> HandlerFailedMessage = LoggerMessage.Define<string>(
        LogLevel.Error, new EventId(6, "WorkerHandlerFailed"), "A handler of the memory worker's {Event} threw");

    private static readonly Action<ILogger, string, Exception?> ConsumerThrewMessage = LoggerMessage.Define<string>(
        LogLevel.Error, new EventId(7, "ConsumerThrew"), "The memory consumer {Consumer} threw");

    private static readonly Action<ILogger, string, string, Exception?> ConsumerLeftOutMessage = LoggerMessage.Define<string, string>(
        LogLevel.Warning, new EventId(8, "ConsumerLeftOut"), "Room is made without {Consumer} until the memory worker takes it: {Reason}");

    private static readonly Dictionary<WorkerLogLevel, Action<ILogger, int, string, Exception?>> LineMessages = new()
    {
        [WorkerLogLevel.Debug] = Line(LogLevel.Debug),
        [WorkerLogLevel.Information] = Line(LogLevel.Information),
        [WorkerLogLevel.Warning] = Line(LogLevel.Warning),
        [WorkerLogLevel.Error] = Line(LogLevel.Error),
        [WorkerLogLevel.Critical] = Line(LogLevel.Critical),
    };

    public static void Started(this ILogger logger, WorkerStartedEventArgs started) =>
        (started.Restarted ? RestartedMessage : StartedMessage)(logger, started.ProcessId, started.WorkerVersion, null);

    public static void Exited(this ILogger logger, WorkerExitedEventArgs exited) => ExitedMessage(
        logger,
        exited.Reason,
        exited.LostAllocations.Count,
        exited.RestartIn is { } wait ? $"in {wait.TotalSeconds:0.###} s" : "none",
        null);

    public static void StartFailed(this ILogger logger, WorkerStartException problem) => StartFailedMessage(logger, problem);

    public static void HandlerFailed(this ILogger logger, WorkerHandlerFailedEventArgs failed) =>
        HandlerFailedMessage(logger, failed.Handler, failed.Exception);

    /// <summary>Tells a consumer's own fault from a worker that refuses it, or can't be had: only the former is one of this host's code.</summary>
    public static void ConsumerFailed(this ILogger logger, WorkerHandlerFailedEventArgs failed)
    {
        if (failed.Exception is WorkerException problem)
        {
            ConsumerLeftOutMessage(logger, failed.Handler, problem.Summary, null);
        }
        else
        {
            ConsumerThrewMessage(logger, failed.Handler, failed.Exception);
        }
    }

    /// <summary>Passes a line of the worker's on, in a scope that has its request and the trace of the call that made it.</summary>
    public static void WorkerSaid(this ILogger logger, WorkerLogEntry entry)
    {
        using var scope = entry.RequestId is null ? null : logger.BeginScope(About(entry));
        LineMessages[entry.Level](logger, entry.ProcessId, Text(entry), null);
    }

    private static List<KeyValuePair<string, object?>> About(WorkerLogEntry entry)
    {
        List<KeyValuePair<string, object?>> about = [new("MemoryWorkerRequestId", entry.RequestId)];
        if (ActivityContext.TryParse(entry.TraceParent, null, out var call))
        {
            about.Add(new("TraceId", call.TraceId.ToHexString())); // Under the names that the host's own lines have them.
            about.Add(new("SpanId", call.SpanId.ToHexString()));
        }

        return about;
    }

    private static string Text(WorkerLogEntry entry)
    {
        var said = entry.RequestId is null
            ? entry.Fields
            : entry.Fields.Append(new("request_id", entry.RequestId));
        return string.Concat(said.Select(one => $", {one.Key} {one.Value}").Prepend(entry.Message));
    }

    private static Action<ILogger, int, string, Exception?> Line(LogLevel level) =>
        LoggerMessage.Define<int, string>(level, new EventId(5, "WorkerSaid"), "worker {ProcessId}: {Message}");
}

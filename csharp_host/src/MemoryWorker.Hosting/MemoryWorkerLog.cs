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

    public static void WorkerSaid(this ILogger logger, WorkerLogEntry entry) =>
        LineMessages[entry.Level](logger, entry.ProcessId, entry.Message, null);

    private static Action<ILogger, int, string, Exception?> Line(LogLevel level) =>
        LoggerMessage.Define<int, string>(level, new EventId(5, "WorkerSaid"), "worker {ProcessId}: {Message}");
}

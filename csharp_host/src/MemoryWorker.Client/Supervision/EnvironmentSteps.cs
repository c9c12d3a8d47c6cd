namespace MemoryWorker.Client;

/// <summary>Tells the steps of making an environment as lines of the log, of no process.</summary>
internal sealed class EnvironmentSteps(IWorkerSink sink) : IProgress<string>
{
    public void Report(string value) => sink.OnLog(new WorkerLogEntry
    {
        Level = WorkerLogLevel.Information,
        Message = value,
        Line = value,
        ProcessId = 0,
    });
}

namespace MemoryWorker.Client;

/// <summary>A worker process has answered for the first time.</summary>
/// <param name="processId">The process.</param>
/// <param name="workerVersion">As it said in <c>worker.hello</c>.</param>
/// <param name="restarted">Whether another worker ran before it.</param>
public sealed class WorkerStartedEventArgs(int processId, string workerVersion, bool restarted) : EventArgs
{
    /// <summary>The process.</summary>
    public int ProcessId { get; } = processId;

    /// <summary>As it said in <c>worker.hello</c>.</summary>
    public string WorkerVersion { get; } = workerVersion;

    /// <summary>Whether another worker ran before it.</summary>
    public bool Restarted { get; } = restarted;
}

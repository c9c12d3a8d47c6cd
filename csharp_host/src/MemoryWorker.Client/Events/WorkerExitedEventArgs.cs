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

/// <summary>A worker process has ended, and what it held is gone.</summary>
public sealed class WorkerExitedEventArgs : EventArgs
{
    internal WorkerExitedEventArgs(WorkerExit exit, TimeSpan? restartIn)
    {
        ProcessId = exit.ProcessId;
        ExitCode = exit.ExitCode;
        Reason = exit.Reason;
        StderrTail = exit.StderrTail;
        LostAllocations = exit.Lost;
        RestartIn = restartIn;
    }

    /// <summary>The process.</summary>
    public int ProcessId { get; }

    /// <summary>128 + signal for a process that was killed; null where the system would not say.</summary>
    public int? ExitCode { get; }

    /// <summary>What is known about the end, for a log.</summary>
    public string Reason { get; }

    /// <summary>Its last lines on stderr, oldest first.</summary>
    public IReadOnlyList<string> StderrTail { get; }

    /// <summary>The allocations that this host had been given and had not seen freed. They are gone.</summary>
    public IReadOnlyList<LostAllocation> LostAllocations { get; }

    /// <summary>Wait until a successor is started; null where none will be.</summary>
    public TimeSpan? RestartIn { get; }
}

/// <summary>An allocation that went with its worker.</summary>
/// <param name="AllocationId">As the worker named it. A later worker may use the name again.</param>
/// <param name="DeviceId">Where it was.</param>
/// <param name="SizeBytes">As asked for.</param>
/// <param name="Owner">Who had asked for it.</param>
/// <param name="Purpose">What for.</param>
public sealed record LostAllocation(string AllocationId, string DeviceId, long SizeBytes, string? Owner, string? Purpose);

/// <summary>How a process ended.</summary>
internal sealed record WorkerExit(
    int ProcessId, int? ExitCode, string Reason, IReadOnlyList<string> StderrTail, IReadOnlyList<LostAllocation> Lost);

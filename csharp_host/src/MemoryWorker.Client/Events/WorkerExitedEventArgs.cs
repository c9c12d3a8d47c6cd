namespace MemoryWorker.Client;

/// <summary>A worker process has ended, and what it held is gone.</summary>
public sealed class WorkerExitedEventArgs : EventArgs
{
    /// <summary>Says which process ended, how, and what went with it.</summary>
    public WorkerExitedEventArgs(
        int processId,
        int? exitCode,
        string reason,
        IReadOnlyList<string>? stderrTail = null,
        IReadOnlyList<LostAllocation>? lostAllocations = null,
        TimeSpan? restartIn = null)
        : this(new WorkerExit(processId, exitCode, reason, stderrTail ?? [], lostAllocations ?? []), restartIn)
    {
    }

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

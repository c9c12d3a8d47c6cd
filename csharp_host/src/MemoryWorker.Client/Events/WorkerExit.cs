namespace MemoryWorker.Client;

/// <summary>How a process ended.</summary>
internal sealed record WorkerExit(
    int ProcessId, int? ExitCode, string Reason, IReadOnlyList<string> StderrTail, IReadOnlyList<LostAllocation> Lost);

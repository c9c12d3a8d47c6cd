using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>The facts that every exception carries.</summary>
internal sealed record WorkerFailure
{
    public Executed Executed { get; init; } = Executed.No;

    public bool Retryable { get; init; }

    public string? RequestId { get; init; }

    public int? ProcessId { get; init; }

    public int? ExitCode { get; init; }

    public IReadOnlyList<string> StderrTail { get; init; } = [];

    public static WorkerFailure Of(WorkerException problem) => new()
    {
        Executed = problem.Executed,
        Retryable = problem.Retryable,
        RequestId = problem.RequestId,
        ProcessId = problem.ProcessId,
        ExitCode = problem.ExitCode,
        StderrTail = problem.StderrTail,
    };

    public string Describe(string message) =>
        StderrTail.Count == 0
            ? message
            : $"{message}{Environment.NewLine}Last lines on stderr:{Environment.NewLine}"
                + string.Join(Environment.NewLine, StderrTail.TakeLast(12));
}

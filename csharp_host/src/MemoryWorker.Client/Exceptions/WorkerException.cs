using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Root of everything that goes wrong between host and worker, except cancellation and disposal.</summary>
public abstract class WorkerException : Exception
{
    private protected WorkerException(string code, string message, WorkerFailure failure, Exception? inner)
        : base(failure.Describe(message), inner)
    {
        Code = code;
        Executed = failure.Executed;
        Retryable = failure.Retryable;
        RequestId = failure.RequestId;
        ProcessId = failure.ProcessId;
        ExitCode = failure.ExitCode;
        StderrTail = failure.StderrTail;
    }

    /// <summary>The wire's error code, or the host's own: <c>worker_start_failed</c>, <c>worker_exited</c>, <c>protocol_violation</c>, <c>timeout</c>.</summary>
    public string Code { get; }

    /// <summary>Whether the request changed anything.</summary>
    public Executed Executed { get; }

    /// <summary>Whether the same request may succeed later.</summary>
    public bool Retryable { get; }

    /// <summary>The request, where there was one.</summary>
    public string? RequestId { get; }

    /// <summary>The worker process, where there was one.</summary>
    public int? ProcessId { get; }

    /// <summary>Its exit code, where it ended; 128 + signal for one that was killed.</summary>
    public int? ExitCode { get; }

    /// <summary>Its last lines on stderr, oldest first.</summary>
    public IReadOnlyList<string> StderrTail { get; }
}

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

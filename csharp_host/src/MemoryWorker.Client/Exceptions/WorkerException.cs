using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>Root of everything that goes wrong between host and worker, except cancellation and disposal.</summary>
public abstract class WorkerException : Exception
{
    private protected WorkerException(string code, string message, WorkerFailure failure, Exception? inner)
        : base(failure.Describe(message), inner)
    {
        Code = code;
        Summary = message.Split('\n', 2)[0].TrimEnd();
        Executed = failure.Executed;
        Retryable = failure.Retryable;
        RequestId = failure.RequestId;
        ProcessId = failure.ProcessId;
        ExitCode = failure.ExitCode;
        ForHost = failure.ForHost;
        StderrTail = failure.StderrTail;
    }

    /// <summary>The wire's error code, or the host's own: <c>worker_start_failed</c>, <c>python_environment</c>, <c>worker_exited</c>, <c>protocol_violation</c>, <c>timeout</c>.</summary>
    public string Code { get; }

    /// <summary>What happened, in one line, which a host may tell callers of its own: without the command, the folder and the <see cref="StderrTail"/> that <see cref="Exception.Message"/> has.</summary>
    public string Summary { get; private protected init; }

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

    /// <inheritdoc cref="WorkerFailure.ForHost"/>
    internal string? ForHost { get; private protected init; }
}

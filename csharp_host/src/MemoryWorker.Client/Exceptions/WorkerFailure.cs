using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>The facts that every exception carries.</summary>
public sealed record WorkerFailure
{
    /// <inheritdoc cref="WorkerException.Executed"/>
    public Executed Executed { get; init; } = Executed.No;

    /// <inheritdoc cref="WorkerException.Retryable"/>
    public bool Retryable { get; init; }

    /// <inheritdoc cref="WorkerException.RequestId"/>
    public string? RequestId { get; init; }

    /// <inheritdoc cref="WorkerException.ProcessId"/>
    public int? ProcessId { get; init; }

    /// <inheritdoc cref="WorkerException.ExitCode"/>
    public int? ExitCode { get; init; }

    /// <inheritdoc cref="WorkerException.StderrTail"/>
    public IReadOnlyList<string> StderrTail { get; init; } = [];

    /// <summary>What was started, where, and what mends it: in the message, and not in <see cref="WorkerException.Summary"/>.</summary>
    internal string? ForHost { get; init; }

    internal static WorkerFailure Of(WorkerException problem) => new()
    {
        Executed = problem.Executed,
        Retryable = problem.Retryable,
        RequestId = problem.RequestId,
        ProcessId = problem.ProcessId,
        ExitCode = problem.ExitCode,
        StderrTail = problem.StderrTail,
        ForHost = problem.ForHost,
    };

    internal string Describe(string message)
    {
        var all = ForHost is null ? message : $"{message}; {ForHost}";
        return StderrTail.Count == 0
            ? all
            : $"{all}{Environment.NewLine}Last lines on stderr:{Environment.NewLine}"
                + string.Join(Environment.NewLine, StderrTail.TakeLast(12));
    }
}

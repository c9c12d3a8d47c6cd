namespace MemoryWorker.Client;

/// <summary>How the worker is started, spoken to and kept alive. Immutable.</summary>
public sealed record PythonWorkerOptions
{
    /// <summary>The Python interpreter, or any other executable: a path, or a name on PATH.</summary>
    public string FileName { get; init; } = OperatingSystem.IsWindows() ? "python" : "python3";

    /// <summary>
    /// The environment that the worker runs in, found or made as part of the start and checked at each: then
    /// <see cref="FileName"/> and <see cref="Arguments"/> are its own. Null: they are taken as they are. A first start that
    /// makes one can take minutes; <see cref="PythonEnvironment.PrepareAsync"/> before it keeps that from the first call.
    /// </summary>
    public PythonEnvironmentOptions? Python { get; init; }

    /// <summary>Arguments, each passed as it stands; no shell sees them. Those of <see cref="Worker"/> follow.</summary>
    public IReadOnlyList<string> Arguments { get; init; } = ["-m", "memory_worker"];

    /// <summary>The worker's own options.</summary>
    public WorkerOptions Worker { get; init; } = new();

    /// <summary>Folder the worker starts in; null for the host's.</summary>
    public string? WorkingDirectory { get; init; }

    /// <summary>Environment variables beside the host's own; null removes one.</summary>
    public IReadOnlyDictionary<string, string?> Environment { get; init; } = new Dictionary<string, string?>();

    /// <summary>Time from the start of the process to its answer to <c>worker.hello</c>.</summary>
    public TimeSpan StartTimeout { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>Time for a call, also sent as its deadline; <see cref="Timeout.InfiniteTimeSpan"/> for none.</summary>
    public TimeSpan RequestTimeout { get; init; } = TimeSpan.FromMinutes(2);

    /// <summary>After a call timed out, the worker has this long to answer a ping before it is taken for hung and killed.</summary>
    public TimeSpan PingTimeout { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>At disposal, time for the worker to finish what runs; then it is killed.</summary>
    public TimeSpan ShutdownTimeout { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>After the process ended, time for what it had written to arrive while something else holds its pipes.</summary>
    public TimeSpan DrainTimeout { get; init; } = TimeSpan.FromMilliseconds(250);

    /// <summary>Longest line that is accepted from the worker, in bytes.</summary>
    public int MaxReplyBytes { get; init; } = 64 * 1024 * 1024;

    /// <summary>Lines of stderr that are kept for exceptions.</summary>
    public int StderrTailLines { get; init; } = 40;

    /// <summary>When and how often a dead worker is replaced.</summary>
    public WorkerRestartOptions Restart { get; init; } = new();

    /// <summary>The clock of every timeout and delay.</summary>
    public TimeProvider TimeProvider { get; init; } = TimeProvider.System;

    /// <summary>Throws where a value makes no sense.</summary>
    /// <exception cref="ArgumentException">The value that is wrong is named.</exception>
    public void Validate()
    {
        ArgumentException.ThrowIfNullOrWhiteSpace(FileName);
        ArgumentNullException.ThrowIfNull(Arguments);
        ArgumentNullException.ThrowIfNull(Environment);
        ArgumentNullException.ThrowIfNull(TimeProvider);
        ArgumentNullException.ThrowIfNull(Restart);
        ArgumentNullException.ThrowIfNull(Worker);
        _ = Worker.ToArguments();
        Positive(StartTimeout, nameof(StartTimeout));
        Positive(PingTimeout, nameof(PingTimeout));
        Positive(ShutdownTimeout, nameof(ShutdownTimeout));
        Positive(DrainTimeout, nameof(DrainTimeout));
        if (RequestTimeout != Timeout.InfiniteTimeSpan)
        {
            Positive(RequestTimeout, nameof(RequestTimeout));
        }

        ArgumentOutOfRangeException.ThrowIfLessThan(MaxReplyBytes, 4096);
        ArgumentOutOfRangeException.ThrowIfNegative(StderrTailLines);
        Positive(Restart.InitialDelay, nameof(Restart.InitialDelay));
        Positive(Restart.Window, nameof(Restart.Window));
        Positive(Restart.BreakDuration, nameof(Restart.BreakDuration));
        ArgumentOutOfRangeException.ThrowIfLessThan(Restart.MaxDelay, Restart.InitialDelay);
        ArgumentOutOfRangeException.ThrowIfNegative(Restart.MaxRestarts);
    }

    /// <summary>Everything after <see cref="FileName"/>.</summary>
    internal IEnumerable<string> CommandLine => Arguments.Concat(Worker.ToArguments());

    internal static void Positive(TimeSpan value, string name)
    {
        ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(value, TimeSpan.Zero, name);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(value, TimeSpan.FromMilliseconds(int.MaxValue), name);
    }
}

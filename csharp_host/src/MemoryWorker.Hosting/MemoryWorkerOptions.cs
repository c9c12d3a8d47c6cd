using MemoryWorker.Client;
using Microsoft.Extensions.Options;

namespace MemoryWorker.Hosting;

/// <summary>How the worker is started and kept, as it stands in configuration. Checked when the host starts.</summary>
public sealed class MemoryWorkerOptions
{
    /// <summary>The section that is bound by default.</summary>
    public const string Section = "MemoryWorker";

    /// <summary>The Python interpreter; null for <c>python3</c> (on Windows <c>python</c>) on PATH.</summary>
    public string? FileName { get; set; }

    /// <summary>Arguments; empty for <c>-m memory_worker</c>. Those of <see cref="Worker"/> follow.</summary>
    public IList<string> Arguments { get; } = new List<string>();

    /// <summary>The worker's own options: <c>"Worker": { "AutoOptimize": "High", "Plugins": ["mine"] }</c>.</summary>
    public WorkerOptions Worker { get; set; } = new();

    /// <summary>
    /// The environment that the worker runs in, found or made when it starts (with <see cref="StartWithHost"/>, when the host
    /// does); an empty section takes what <see cref="PythonEnvironmentOptions"/> has. Null for <see cref="FileName"/> as it is.
    /// </summary>
    public PythonEnvironmentOptions? Python { get; set; }

    /// <summary>Folder the worker starts in; null for the host's.</summary>
    public string? WorkingDirectory { get; set; }

    /// <summary>Environment variables beside the host's own; an empty value removes one.</summary>
    public IDictionary<string, string?> Environment { get; } = new Dictionary<string, string?>();

    /// <summary>Time from the start of the process to its first answer.</summary>
    public TimeSpan StartTimeout { get; set; } = TimeSpan.FromSeconds(30);

    /// <summary>Time for a call; <c>-00:00:00.0010000</c> for none.</summary>
    public TimeSpan RequestTimeout { get; set; } = TimeSpan.FromMinutes(2);

    /// <summary>Time for the answer to a ping, at health checks and after a timeout.</summary>
    public TimeSpan PingTimeout { get; set; } = TimeSpan.FromSeconds(5);

    /// <summary>Time for the worker to finish at shutdown.</summary>
    public TimeSpan ShutdownTimeout { get; set; } = TimeSpan.FromSeconds(5);

    /// <summary>Restarts within <see cref="RestartWindow"/> before calls fail at once.</summary>
    public int MaxRestarts { get; set; } = 5;

    /// <summary>How long a failure counts.</summary>
    public TimeSpan RestartWindow { get; set; } = TimeSpan.FromMinutes(1);

    /// <summary>Wait before the first restart; it doubles.</summary>
    public TimeSpan RestartDelay { get; set; } = TimeSpan.FromMilliseconds(100);

    /// <summary>How long calls fail at once after too many restarts.</summary>
    public TimeSpan BreakDuration { get; set; } = TimeSpan.FromSeconds(30);

    /// <summary>Start with the host, and fail it if the worker does not start. Otherwise the first call starts it.</summary>
    public bool StartWithHost { get; set; } = true;

    internal PythonWorkerOptions ToClient(TimeProvider clock)
    {
        var defaults = new PythonWorkerOptions();
        var maxDelay = defaults.Restart.MaxDelay;
        return defaults with
        {
            FileName = string.IsNullOrEmpty(FileName) ? defaults.FileName : FileName,
            Arguments = Arguments.Count == 0 ? defaults.Arguments : [.. Arguments],
            Worker = Worker,
            Python = Python,
            WorkingDirectory = WorkingDirectory,
            Environment = Environment.ToDictionary(one => one.Key, one => string.IsNullOrEmpty(one.Value) ? null : one.Value),
            StartTimeout = StartTimeout,
            RequestTimeout = RequestTimeout,
            PingTimeout = PingTimeout,
            ShutdownTimeout = ShutdownTimeout,
            TimeProvider = clock,
            Restart = new WorkerRestartOptions
            {
                InitialDelay = RestartDelay,
                MaxDelay = RestartDelay > maxDelay ? RestartDelay : maxDelay,
                MaxRestarts = MaxRestarts,
                Window = RestartWindow,
                BreakDuration = BreakDuration,
            },
        };
    }
}

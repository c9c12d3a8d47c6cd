using System.Globalization;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>
/// The worker's own options, appended to <see cref="PythonWorkerOptions.Arguments"/>. What is null is left out: the worker's
/// default holds (<c>python -m memory_worker --help</c>). Immutable.
/// </summary>
public sealed record WorkerOptions
{
    /// <summary>Most that may be allocated on the CPU, in bytes.</summary>
    public long? LimitBytes { get; init; }

    /// <summary>Device of requests that name none.</summary>
    public string? DefaultDevice { get; init; }

    /// <summary>Simulated devices <c>sim:0</c>, <c>sim:1</c> …: a size such as <c>8GiB</c>, and knobs after it.</summary>
    public IReadOnlyList<string> SimulatedDevices { get; init; } = [];

    /// <summary>Kinds of devices that run in a process of their own.</summary>
    public IReadOnlyList<DeviceKind> Isolate { get; init; } = [];

    /// <summary>The interpreter that has torch_directml.</summary>
    public string? DirectMlPython { get; init; }

    /// <summary>Which of DirectML's two allocators: <c>untiled</c> or <c>tiled</c>.</summary>
    public string? DirectMlAllocator { get; init; }

    /// <summary>Longest line in or out, in bytes.</summary>
    public long? MaxFrameBytes { get; init; }

    /// <summary>Requests in flight before more are refused.</summary>
    public int? MaxInflight { get; init; }

    /// <summary>Most that is kept for reuse, in bytes; 0 for nothing.</summary>
    public long? PoolBytes { get; init; }

    /// <summary>Where the files of shared allocations are.</summary>
    public string? SharedFolder { get; init; }

    /// <summary>Where stores that persist have their files; null for none: then none does. One worker's at a time.</summary>
    public string? StoreFolder { get; init; }

    /// <summary>Below which folders of texts may be loaded into stores of documents; without it none is read.</summary>
    public string? DocumentsRoot { get; init; }

    /// <summary>A plugin's action that makes vectors of texts, for stores of documents.</summary>
    public string? DocumentsEmbedder { get; init; }

    /// <summary>What a shared allocation is; null for a section on Windows and a file elsewhere.</summary>
    public SharedMemoryKind? SharedMemory { get; init; }

    /// <summary>The YAML file that declares the models.</summary>
    public string? Models { get; init; }

    /// <summary>The folder that models' files lie below; null for that of <see cref="Models"/>.</summary>
    public string? ModelRoot { get; init; }

    /// <summary>The file that what happens is written to.</summary>
    public string? Record { get; init; }

    /// <summary>The file that an OpenMetrics text is kept in.</summary>
    public string? MetricsFile { get; init; }

    /// <summary>Who may read it; on Windows without effect.</summary>
    public UnixFileMode? MetricsMode { get; init; }

    /// <summary>How often it is written, at least 100 ms.</summary>
    public TimeSpan? MetricsInterval { get; init; }

    /// <summary>The socket that <c>top</c> attaches to; empty for the default place.</summary>
    public string? MonitorSocket { get; init; }

    /// <summary>Modules of yours whose actions are added.</summary>
    public IReadOnlyList<string> Plugins { get; init; } = [];

    /// <summary>Make room unasked where a device stays at this pressure or above: moderate, high or critical.</summary>
    public PressureCategory? AutoOptimize { get; init; }

    /// <summary>The same from a share of the budget on, in percent: 85; instead of <see cref="AutoOptimize"/>.</summary>
    public double? AutoOptimizePercentage { get; init; }

    /// <summary>Trace the worker's own Python objects, so many frames deep (1 to 64).</summary>
    public int? TracePython { get; init; }

    /// <summary>A fixed clock and fixed figures, for tests.</summary>
    public bool Deterministic { get; init; }

    /// <summary>Least level of the lines on stderr; critical is not one that can be asked for.</summary>
    public WorkerLogLevel? LogLevel { get; init; }

    /// <summary>The options as the worker's command line has them.</summary>
    /// <exception cref="ArgumentException">A value has no word on the command line.</exception>
    public IReadOnlyList<string> ToArguments()
    {
        List<string> told = [];
        Add("limit-bytes", LimitBytes);
        AddText("default-device", DefaultDevice);
        AddEach("simulated-device", SimulatedDevices);
        AddEach("isolate", Isolate.Select(one => one.ToWord()));
        AddText("directml-python", DirectMlPython);
        AddText("directml-allocator", DirectMlAllocator);
        Add("max-frame-bytes", MaxFrameBytes);
        Add("max-inflight", MaxInflight);
        Add("pool-bytes", PoolBytes);
        AddText("shared-folder", SharedFolder);
        AddText("store-folder", StoreFolder);
        AddText("documents-root", DocumentsRoot);
        AddText("documents-embedder", DocumentsEmbedder);
        AddText("shared-memory", SharedMemory?.ToWord());
        AddText("models", Models);
        AddText("model-root", ModelRoot);
        AddText("record", Record);
        AddText("metrics-file", MetricsFile);
        AddText("metrics-mode", MetricsMode is { } mode ? Convert.ToString((int)mode, 8).PadLeft(4, '0') : null);
        Add("metrics-seconds", MetricsInterval?.TotalSeconds);
        AddText("monitor-socket", MonitorSocket);
        AddEach("plugin", Plugins);
        Add("auto-optimize", AutoOptimizePercentage);
        AddText("auto-optimize", AutoOptimizePercentage is null ? AutoOptimize?.ToWord() : null);
        Add("trace-python", TracePython);
        if (Deterministic)
        {
            told.Add("--deterministic");
        }

        AddText("log-level", LogLevel is { } level ? LogWord(level) : null);
        return told;

        // With an equals sign, so that no value is taken for another option.
        void Add(string name, IFormattable? value) => AddText(name, value?.ToString(null, CultureInfo.InvariantCulture));

        void AddText(string name, string? value)
        {
            if (value is not null)
            {
                told.Add($"--{name}={value}");
            }
        }

        void AddEach(string name, IEnumerable<string> values)
        {
            foreach (var value in values)
            {
                AddText(name, value);
            }
        }
    }

    private static string LogWord(WorkerLogLevel level) => level switch
    {
        WorkerLogLevel.Debug => "debug",
        WorkerLogLevel.Information => "info",
        WorkerLogLevel.Warning => "warning",
        WorkerLogLevel.Error => "error",
        _ => throw new ArgumentException($"the worker does not log at {level} alone", nameof(level)),
    };
}

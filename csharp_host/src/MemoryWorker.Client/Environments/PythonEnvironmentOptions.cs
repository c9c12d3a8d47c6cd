namespace MemoryWorker.Client;

/// <summary>
/// Which Python the worker runs in, and what may be done to have one. Left as it is, an environment of the worker's own is
/// made below the user's application data, from the wheel that the package carries.
/// </summary>
public sealed record PythonEnvironmentOptions
{
    /// <summary>
    /// A Python that has the worker and everything that it needs, a path or a name on PATH: it is checked and nothing is
    /// installed. Null to find or make one. Cannot be set together with <see cref="Venv"/>.
    /// </summary>
    public string? Interpreter { get; init; }

    /// <summary>Folder of a virtual environment that has all of it: it is checked and nothing is installed.</summary>
    public string? Venv { get; init; }

    /// <summary>Folder that an environment is made in, and kept for the next time; null for one of the user's own, by version.</summary>
    public string? Folder { get; init; }

    /// <summary>The Python that an environment is made from; null for the first that is found: <c>python3</c>, <c>py -3</c>, uv's own.</summary>
    public string? BasePython { get; init; }

    /// <summary>The worker's wheel; null for the one that the package carries.</summary>
    public string? Wheel { get; init; }

    /// <summary>Folder with the wheels of everything that the worker needs: no registry is asked. Null to ask the registry.</summary>
    public string? WheelFolder { get; init; }

    /// <summary>
    /// Optional parts of the worker: <c>torch</c>, <c>cuda</c>, <c>onnx</c>, <c>gguf</c> and more. They are installed where an
    /// environment is made, and checked for where one is named.
    /// </summary>
    public IReadOnlyList<string> Extras { get; init; } = [];

    /// <summary>False: an environment that is not there yet is an error, not made.</summary>
    public bool MayMake { get; init; } = true;

    /// <summary>
    /// Time for each program that is run; torch alone can take minutes to download. An interpreter that is only asked for its
    /// version has 30 s of it.
    /// </summary>
    public TimeSpan StepTimeout { get; init; } = TimeSpan.FromMinutes(20);

    internal TimeSpan QuickStepTimeout => StepTimeout < QuickStep ? StepTimeout : QuickStep;

    private static TimeSpan QuickStep => TimeSpan.FromSeconds(30);
}

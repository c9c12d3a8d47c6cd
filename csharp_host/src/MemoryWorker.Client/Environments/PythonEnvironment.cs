using MemoryWorker.Client.Environments;

namespace MemoryWorker.Client;

/// <summary>
/// A Python that the worker runs in, checked before anything is started: found where it is named, or made once from the
/// wheel that the package carries, and kept.
/// </summary>
public sealed class PythonEnvironment
{
    /// <summary>Name and value of the wheel in it, so that the next start need not install it again.</summary>
    private const string Stamp = "memory-worker-installed";

    private PythonEnvironment(string interpreter, ProbeAnswer answer, bool wasMade) =>
        (Interpreter, PythonVersion, WorkerVersion, WasMade) = (interpreter, answer.Python, answer.Version, wasMade);

    /// <summary>The interpreter's path.</summary>
    public string Interpreter { get; }

    /// <summary>Its version.</summary>
    public string PythonVersion { get; }

    /// <summary>The worker's version in it; null for a checkout that is on its path.</summary>
    public string? WorkerVersion { get; }

    /// <summary>Whether something was installed just now.</summary>
    public bool WasMade { get; }

    /// <summary>
    /// Finds or makes the environment and checks it: version, dependencies, and that the packages are the worker's own.
    /// Takes a fraction of a second where it is there, and as long as its packages take to download where it is made.
    /// </summary>
    /// <param name="options">Null for an environment of the worker's own.</param>
    /// <param name="progress">Told each step in a sentence, and what the installer says.</param>
    /// <param name="cancellationToken">Ends what runs; what was made so far is made anew the next time.</param>
    /// <exception cref="PythonEnvironmentException">There is none, and the message says what to do about it.</exception>
    /// <exception cref="ArgumentException">The options contradict each other.</exception>
    public static async Task<PythonEnvironment> PrepareAsync(
        PythonEnvironmentOptions? options = null, IProgress<string>? progress = null, CancellationToken cancellationToken = default)
    {
        options ??= new();
        if (options is { Interpreter: not null, Venv: not null })
        {
            throw new ArgumentException(
                $"{nameof(options.Interpreter)} and {nameof(options.Venv)} name two environments: set one of them", nameof(options));
        }

        var named = options.Interpreter ?? (options.Venv is { } venv ? InterpreterOf(Existing(venv, nameof(options.Venv))) : null);
        if (named is not null)
        {
            return new(named, await CheckAsync(named, options, cancellationToken).ConfigureAwait(false), wasMade: false);
        }

        return await FindOrMakeAsync(options, progress, cancellationToken).ConfigureAwait(false);
    }

    /// <summary>
    /// Has a service start its worker in this environment, whatever packages the folder has that it starts in. Arguments before
    /// and after <c>-m worker</c> or <c>-m memory_worker</c> stay, and a script of your own is started as it is.
    /// </summary>
    /// <exception cref="PythonEnvironmentException">That folder is not there.</exception>
    public PythonWorkerOptions Apply(PythonWorkerOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        var made = options with { FileName = Interpreter, Arguments = OwnPackagesFirst([.. options.Arguments]) };
        CheckFolder(made);
        return made;
    }

    /// <summary>Checks that what these options start will find the worker's own packages, without starting it.</summary>
    /// <exception cref="PythonEnvironmentException">The folder is not there, or has packages under the worker's names.</exception>
    public static void CheckFolder(PythonWorkerOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        var folder = options.WorkingDirectory is { Length: > 0 } set
            ? Existing(set, nameof(options.WorkingDirectory))
            : Directory.GetCurrentDirectory();
        if (InTheWay.Of(options.Arguments, folder) is { } sentence)
        {
            throw new PythonEnvironmentException(PythonEnvironmentProblem.NameTaken, sentence);
        }
    }

    private static async Task<PythonEnvironment> FindOrMakeAsync(
        PythonEnvironmentOptions options, IProgress<string>? progress, CancellationToken cancellationToken)
    {
        var folder = options.Folder ?? DefaultFolder(options.Extras);
        using var wheel = CarriedWheel.Open(options.Wheel);
        Extras.Check(options.Extras, wheel.Extras());
        var wanted = $"{wheel.Sha256} [{string.Join(",", options.Extras.Order(StringComparer.Ordinal))}]";
        var python = InterpreterOf(folder);
        var stamp = Path.Combine(folder, Stamp);
        if (IsMade())
        {
            return new(python, await CheckAsync(python, options, cancellationToken).ConfigureAwait(false), wasMade: false);
        }

        if (!options.MayMake)
        {
            throw new PythonEnvironmentException(
                PythonEnvironmentProblem.WorkerMissing,
                $"there is no environment with this version of the worker in '{folder}': "
                    + $"make one before, with {nameof(PythonEnvironment)}.{nameof(PrepareAsync)} and {nameof(options.MayMake)}");
        }

        var maker = new VenvMaker(options, folder, progress, cancellationToken);
        await using var held = await maker.HoldAsync().ConfigureAwait(false);
        var made = IsMade();
        if (!made)
        {
            await maker.MakeAsync(wheel).ConfigureAwait(false);
        }

        var answer = await CheckAsync(python, options, cancellationToken).ConfigureAwait(false);
        await File.WriteAllTextAsync(stamp, wanted, cancellationToken).ConfigureAwait(false);
        return new(python, answer, wasMade: !made);

        bool IsMade() => File.Exists(python) && File.Exists(stamp) && File.ReadAllText(stamp) == wanted;
    }

    private static async Task<ProbeAnswer> CheckAsync(
        string interpreter, PythonEnvironmentOptions options, CancellationToken cancellationToken)
    {
        var answer = await ProbeAnswer.AskAsync(interpreter, options.Extras, options.QuickStepTimeout, cancellationToken)
            .ConfigureAwait(false);
        answer.Check(interpreter, options.Extras);
        return answer;
    }

    private static string[] OwnPackagesFirst(string[] arguments)
    {
        var at = Array.FindIndex(arguments, one => one is "worker" or "memory_worker");
        if (at < 1 || arguments[at - 1] != "-m")
        {
            return arguments;
        }

        var before = arguments[..(at - 1)];
        return [.. before.Contains("-P") ? before : ["-P", .. before], "-m", "memory_worker", .. arguments[(at + 1)..]];
    }

    internal static string InterpreterOf(string venv) => OperatingSystem.IsWindows()
        ? Path.Combine(Path.GetFullPath(venv), "Scripts", "python.exe")
        : Path.Combine(Path.GetFullPath(venv), "bin", "python");

    private static string Existing(string folder, string option) =>
        Directory.Exists(folder)
            ? Path.GetFullPath(folder)
            : throw new PythonEnvironmentException(
                PythonEnvironmentProblem.FolderMissing,
                $"{option} '{folder}' is not there (looked for '{Path.GetFullPath(folder)}'): make it, or set {option} to one that is");

    /// <summary>One for each version and set of extras: hosts that want others do not make each other's anew.</summary>
    private static string DefaultFolder(IReadOnlyList<string> extras)
    {
        var data = Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData, Environment.SpecialFolderOption.DoNotVerify);
        return data.Length > 0
            ? Path.Combine(data, "memory-worker", string.Join('-', extras.Order(StringComparer.Ordinal).Prepend(CarriedWheel.Version)))
            : throw new PythonEnvironmentException(
                PythonEnvironmentProblem.FolderMissing,
                $"this user has no folder for application data: set {nameof(PythonEnvironmentOptions)}.{nameof(PythonEnvironmentOptions.Folder)}");
    }
}

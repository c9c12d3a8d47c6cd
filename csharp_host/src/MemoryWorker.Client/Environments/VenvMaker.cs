namespace MemoryWorker.Client.Environments;

/// <summary>Makes a virtual environment and installs the worker in it: with uv where that is there, else with venv and pip.</summary>
internal sealed class VenvMaker(
    PythonEnvironmentOptions options, string folder, IProgress<string>? progress, CancellationToken cancellationToken)
{
    private const string Lock = ".memory-worker-lock";

    /// <summary>Makes it anew, whatever an attempt before it left.</summary>
    /// <exception cref="PythonEnvironmentException">It could not be made; the folder can be used again.</exception>
    public async Task MakeAsync(CarriedWheel wheel)
    {
        if (options.WheelFolder is { } wheels && !Directory.Exists(wheels))
        {
            throw new PythonEnvironmentException(
                PythonEnvironmentProblem.FolderMissing,
                $"{nameof(options.WheelFolder)} '{wheels}' is not there: set it to a folder with the wheels of what the worker needs "
                    + "('pip download' fills one), or leave it out");
        }

        if (File.Exists(folder))
        {
            throw NotMade($"'{folder}' is a file", $"set {nameof(options.Folder)} to a folder that is empty or not there");
        }

        if (Directory.Exists(folder)
            && Directory.EnumerateFileSystemEntries(folder).Any()
            && !File.Exists(Path.Combine(folder, "pyvenv.cfg")))
        {
            throw NotMade($"'{folder}' has other things in it", $"set {nameof(options.Folder)} to a folder that is empty or not there");
        }

        var finder = new PythonFinder(options.QuickStepTimeout, progress, cancellationToken);
        var base_ = await finder.FindAsync(options.BasePython).ConfigureAwait(false);
        var hasUv = await HasUvAsync().ConfigureAwait(false);
        progress?.Report($"Making an environment in '{folder}' from Python {base_.Version} ('{base_.Path}')");
        await RunAsync(
            hasUv ? "uv" : base_.Path,
            hasUv ? ["venv", "--clear", "--python", base_.Path, folder] : ["-m", "venv", "--clear", folder],
            "make sure that Python has its 'venv' module (on Debian and Ubuntu: apt install python3-venv), and that the folder can be "
                + "written to").ConfigureAwait(false);
        progress?.Report($"Installing memory-worker {CarriedWheel.Version} and what it needs");
        var python = PythonEnvironment.InterpreterOf(folder);
        string[] install = hasUv ? ["pip", "install", "--python", python] : ["-m", "pip", "install", "--no-input"];
        string[] source = options.WheelFolder is { } local ? ["--no-index", "--find-links", Path.GetFullPath(local)] : [];
        await RunAsync(
            hasUv ? "uv" : python,
            [.. install, .. source, Extras.Of(wheel.Path, options.Extras)],
            options.WheelFolder is { } from
                ? $"put the wheels of everything that it needs into '{from}' ('pip download' fills it)"
                : $"look to the connection to the package index, or set {nameof(options.WheelFolder)} to a folder with the wheels")
            .ConfigureAwait(false);
    }

    /// <summary>One process makes it; the others wait, and find it made.</summary>
    /// <exception cref="PythonEnvironmentException">The folder cannot be written to.</exception>
    public async Task<FileStream> HoldAsync()
    {
        var told = false;
        var full = Path.TrimEndingDirectorySeparator(Path.GetFullPath(folder));
        var name = full + Lock;
        while (true)
        {
            try
            {
                Directory.CreateDirectory(Path.GetDirectoryName(full) ?? full);
                return new FileStream(name, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (Exception problem) when (problem is UnauthorizedAccessException || (problem is IOException && !File.Exists(name)))
            {
                throw NotMade(
                    problem is FileNotFoundException ? $"no file can be made in '{Path.GetDirectoryName(full)}'" : problem.Message,
                    $"set {nameof(options.Folder)} to a folder that can be written to");
            }
            catch (IOException)
            {
                if (!told)
                {
                    progress?.Report($"Waiting for another process that makes '{folder}'");
                    told = true;
                }

                await Task.Delay(TimeSpan.FromMilliseconds(100), cancellationToken).ConfigureAwait(false);
            }
        }
    }

    private async Task<bool> HasUvAsync()
    {
        try
        {
            return await Tool.RunAsync("uv", ["--version"], options.QuickStepTimeout, cancellationToken).ConfigureAwait(false)
                is { ExitCode: 0 };
        }
        catch (TimeoutException late)
        {
            progress?.Report($"{late.Message}: venv and pip are used instead");
            return false;
        }
    }

    private async Task RunAsync(string program, IEnumerable<string> arguments, string remedy)
    {
        Ran? ran;
        try
        {
            ran = await Tool.RunAsync(
                program, arguments, options.StepTimeout, cancellationToken, line: line => progress?.Report(line)).ConfigureAwait(false);
        }
        catch (TimeoutException late)
        {
            throw NotMade(late.Message, $"{remedy}, or give it more time with {nameof(options.StepTimeout)}");
        }

        if (ran is not { ExitCode: 0 })
        {
            throw NotMade(ran is null ? $"'{program}' could not be started" : ran.LastWord, remedy);
        }
    }

    private static PythonEnvironmentException NotMade(string what, string remedy) =>
        new(PythonEnvironmentProblem.NotMade, $"the worker's environment could not be made ({what}): {remedy}");
}

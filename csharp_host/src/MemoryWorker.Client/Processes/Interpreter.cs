using System.Globalization;
using System.Text.RegularExpressions;

namespace MemoryWorker.Client.Processes;

/// <summary>Says what was started, and what its last words mean, where the worker did not start.</summary>
internal static class Interpreter
{
    private const int NeededMinor = 11;

    /// <summary>What an older Python says where it gets far enough: this type came with the one that is needed.</summary>
    private const string NoStrEnum = "cannot import name 'StrEnum'";

    /// <summary>What <c>memory_worker</c> itself says, also to a Python that reads nothing else of it.</summary>
    private const string SaysSo = "needs Python 3.";

    /// <summary>Where <c>-m</c> is in an older Python's traceback; from 3.11 on it is part of the interpreter.</summary>
    private const string RunPy = @"python3\.?(\d{1,2})\b.*runpy\.py";

    /// <summary>What an interpreter says that has no worker, or not all that it needs.</summary>
    private const string NoWorker = @"No module named '?(memory_worker|worker|protocol|orjson|psutil|pydantic|yaml)\b";

    /// <summary>What mends each of these without installing anything by hand.</summary>
    private const string Prepare =
        $"or set {nameof(PythonWorkerOptions)}.{nameof(PythonWorkerOptions.Python)} to new {nameof(PythonEnvironmentOptions)}() "
        + "(in configuration \"Python\": { \"MayMake\": true }), which finds a Python and makes an environment";

    /// <summary>Throws where the folder that the worker is to start in is not there: the system would name the executable.</summary>
    /// <exception cref="WorkerStartException">There is no such folder.</exception>
    public static void CheckFolder(PythonWorkerOptions options)
    {
        if (options.WorkingDirectory is { Length: > 0 } folder && !Directory.Exists(folder))
        {
            throw new WorkerStartException(
                "the worker did not start",
                new WorkerFailure
                {
                    ForHost = $"{nameof(options.WorkingDirectory)} '{folder}' is not there (looked for '{Path.GetFullPath(folder)}'); "
                        + $"'{options.FileName}' was not started",
                });
        }
    }

    /// <summary>The command and where it ran, with a remedy where stderr shows that one is known.</summary>
    public static string Describe(PythonWorkerOptions options, IReadOnlyList<string> stderrTail)
    {
        var path = Find(options.FileName);
        var command = string.Join(' ', options.CommandLine.Prepend($"'{path}'"));
        var started = $"started was {command} in '{options.WorkingDirectory ?? Directory.GetCurrentDirectory()}'";
        if (Environments.InTheWay.Of(options.Arguments, options.WorkingDirectory ?? Directory.GetCurrentDirectory()) is { } sentence)
        {
            return $"{sentence}; {started}";
        }

        if (stderrTail.Any(IsTooOld))
        {
            return $"the worker needs Python 3.{NeededMinor} or newer, and '{path}' is older: "
                + $"set {nameof(options.FileName)} to a newer one, {Prepare}; {started}";
        }

        return stderrTail.Any(line => Regex.IsMatch(line, NoWorker, RegexOptions.CultureInvariant))
            ? $"'{path}' has no memory-worker, or not all that it needs: run '{path} -m pip install memory-worker', {Prepare}; {started}"
            : started;
    }

    /// <summary>What to do where the system can't start the executable.</summary>
    public static string NotStarted(PythonWorkerOptions options, string why) =>
        $"'{options.FileName}' could not be started ({why}): set {nameof(options.FileName)} to a Python 3.{NeededMinor} or newer, {Prepare}";

    private static bool IsTooOld(string line) =>
        line.Contains(NoStrEnum, StringComparison.Ordinal)
        || line.Contains(SaysSo, StringComparison.Ordinal)
        || (Regex.Match(line, RunPy, RegexOptions.IgnoreCase | RegexOptions.CultureInvariant) is { Success: true } found
            && int.Parse(found.Groups[1].ValueSpan, CultureInfo.InvariantCulture) < NeededMinor);

    /// <summary>The file that a name on PATH stands for; the name itself where it is a path, or none is found.</summary>
    private static string Find(string fileName) =>
        fileName.AsSpan().ContainsAny('/', '\\')
            ? fileName
            : (Environment.GetEnvironmentVariable("PATH") ?? string.Empty)
                .Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)
                .SelectMany(folder => new[] { fileName, fileName + ".exe" }, Path.Combine)
                .FirstOrDefault(File.Exists) ?? fileName;
}

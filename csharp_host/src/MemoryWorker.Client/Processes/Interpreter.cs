namespace MemoryWorker.Client.Processes;

/// <summary>Says what was started, and what its last words mean, where the worker did not start.</summary>
internal static class Interpreter
{
    private const string Needed = "3.11";

    /// <summary>What an older Python says first: this type came with the one that is needed.</summary>
    private const string TooOld = "cannot import name 'StrEnum'";

    /// <summary>Throws where the folder that the worker is to start in is not there: the system would name the executable.</summary>
    /// <exception cref="WorkerStartException">There is no such folder.</exception>
    public static void CheckFolder(PythonWorkerOptions options)
    {
        if (options.WorkingDirectory is { Length: > 0 } folder && !Directory.Exists(folder))
        {
            throw new WorkerStartException(
                $"{nameof(options.WorkingDirectory)} '{folder}' is not there (looked for '{Path.GetFullPath(folder)}'); "
                    + $"'{options.FileName}' was not started",
                new WorkerFailure());
        }
    }

    /// <summary>The command and where it ran, with a remedy where stderr shows that one is known.</summary>
    public static string Describe(PythonWorkerOptions options, IReadOnlyList<string> stderrTail)
    {
        var path = Find(options.FileName);
        var command = string.Join(' ', options.Arguments.Prepend($"'{path}'"));
        var started = $"started was {command} in '{options.WorkingDirectory ?? Directory.GetCurrentDirectory()}'";
        return stderrTail.Any(line => line.Contains(TooOld, StringComparison.Ordinal))
            ? $"the worker needs Python {Needed} or newer, and '{path}' is older: set {nameof(options.FileName)} to a newer one; {started}"
            : started;
    }

    /// <summary>The file that a name on PATH stands for; the name itself where it is a path, or none is found.</summary>
    private static string Find(string fileName) =>
        fileName.AsSpan().ContainsAny('/', '\\')
            ? fileName
            : (Environment.GetEnvironmentVariable("PATH") ?? string.Empty)
                .Split(Path.PathSeparator, StringSplitOptions.RemoveEmptyEntries)
                .SelectMany(folder => new[] { fileName, fileName + ".exe" }, Path.Combine)
                .FirstOrDefault(File.Exists) ?? fileName;
}

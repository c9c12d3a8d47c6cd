using System.Text.Json;

namespace MemoryWorker.Client.Environments;

/// <summary>What an interpreter says about the worker in it.</summary>
internal sealed record ProbeAnswer(
    string Python,
    string? Version,
    IReadOnlyList<string> Missing,
    IReadOnlyList<string> Overwritten,
    IReadOnlyList<string> Extras,
    string? Entry)
{
    private const string Script = "probe.py";

    /// <summary>Before what the script says: what is imported at an interpreter's start may print, too.</summary>
    private const string Mark = "memory-worker-probe:";

    /// <summary>Asks, in a folder that has nothing of anybody's.</summary>
    /// <exception cref="PythonEnvironmentException">It is no Python.</exception>
    public static async Task<ProbeAnswer> AskAsync(
        string interpreter, IEnumerable<string> extras, TimeSpan patience, CancellationToken cancellationToken)
    {
        using var resource = new StreamReader(typeof(ProbeAnswer).Assembly.GetManifestResourceStream(Script)!);
        var script = await resource.ReadToEndAsync(cancellationToken).ConfigureAwait(false);
        Ran? ran;
        try
        {
            ran = await Tool.RunAsync(interpreter, ["-c", script, .. extras], patience, cancellationToken).ConfigureAwait(false);
        }
        catch (TimeoutException late)
        {
            ran = new Ran(-1, string.Empty, late.Message);
        }

        if (ran?.Marked(Mark) is { } answer)
        {
            using var document = JsonDocument.Parse(answer);
            var told = document.RootElement;
            return new(
                told.GetProperty("python").GetString()!,
                told.GetProperty("version").GetString(),
                Texts(told.GetProperty("missing")),
                Texts(told.GetProperty("overwritten")),
                Texts(told.GetProperty("extras")),
                told.GetProperty("entry").GetString());
        }

        throw new PythonEnvironmentException(
            PythonEnvironmentProblem.NotFound,
            $"'{interpreter}' is no Python that can be started ({ran?.WhyNoAnswer ?? WhyNotStarted(interpreter)}): "
                + $"name a Python {FoundPython.Needed} or newer, or leave it out to have one found");
    }

    /// <summary>Throws where the worker would not start.</summary>
    /// <exception cref="PythonEnvironmentException">The first reason, with its remedy.</exception>
    public void Check(string interpreter, IReadOnlyCollection<string> extras)
    {
        if (!new FoundPython(interpreter, Python).IsNewEnough)
        {
            throw new PythonEnvironmentException(
                PythonEnvironmentProblem.TooOld,
                $"the worker needs Python {FoundPython.Needed} or newer, and '{interpreter}' is {Python}: name a newer one");
        }

        if (Entry is null)
        {
            throw new PythonEnvironmentException(
                PythonEnvironmentProblem.WorkerMissing,
                $"'{interpreter}' has no memory-worker: run '{interpreter} -m pip install memory-worker', "
                    + "or leave it out to have an environment made");
        }

        Environments.Extras.Check(extras, Extras);
        if (Missing.Count > 0)
        {
            throw new PythonEnvironmentException(
                PythonEnvironmentProblem.DependencyMissing,
                $"'{interpreter}' has memory-worker {Version} without what it needs, {string.Join(" and ", Missing)}: "
                    + $"run '{interpreter} -m pip install {Environments.Extras.Of("memory-worker", extras)}'");
        }

        if (Overwritten.Count > 0)
        {
            throw new PythonEnvironmentException(
                PythonEnvironmentProblem.NameTaken,
                $"{string.Join(" and ", Overwritten.Select(one => $"'{one}'"))} is not memory-worker's own any more, another package "
                    + "put its files there: give the worker an environment of its own "
                    + $"({nameof(PythonEnvironmentOptions)}.{nameof(PythonEnvironmentOptions.Folder)})");
        }
    }

    private static string WhyNotStarted(string interpreter) =>
        Directory.Exists(interpreter) ? "it is a folder"
        : File.Exists(interpreter) ? "it is a file that can't be executed"
        : "there is no such program";

    private static List<string> Texts(JsonElement list) => [.. list.EnumerateArray().Select(one => one.GetString()!)];
}

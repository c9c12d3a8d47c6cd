using System.Text.Json;

namespace MemoryWorker.Client.Environments;

/// <summary>What an interpreter says about the worker in it.</summary>
internal sealed record ProbeAnswer(
    string Python, string? Version, IReadOnlyList<string> Missing, IReadOnlyList<string> Overwritten, string? Entry)
{
    private const string Script = "probe.py";
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    /// <summary>Asks, in a folder that has nothing of anybody's.</summary>
    /// <exception cref="PythonEnvironmentException">It is no Python.</exception>
    public static async Task<ProbeAnswer> AskAsync(string interpreter, CancellationToken cancellationToken)
    {
        using var resource = new StreamReader(typeof(ProbeAnswer).Assembly.GetManifestResourceStream(Script)!);
        var script = await resource.ReadToEndAsync(cancellationToken).ConfigureAwait(false);
        Ran? ran;
        try
        {
            ran = await Tool.RunAsync(interpreter, ["-c", script], Patience, cancellationToken).ConfigureAwait(false);
        }
        catch (TimeoutException late)
        {
            ran = new Ran(-1, string.Empty, late.Message);
        }

        if (ran is { ExitCode: 0 })
        {
            using var document = JsonDocument.Parse(ran.Output);
            var told = document.RootElement;
            return new(
                told.GetProperty("python").GetString()!,
                told.GetProperty("version").GetString(),
                Texts(told.GetProperty("missing")),
                Texts(told.GetProperty("overwritten")),
                told.GetProperty("entry").GetString());
        }

        throw new PythonEnvironmentException(
            PythonEnvironmentProblem.NotFound,
            $"'{interpreter}' is no Python that can be started{(ran is null ? string.Empty : $" ({ran.LastWord})")}: "
                + $"name a Python {FoundPython.Needed} or newer, or leave it out to have one found");
    }

    /// <summary>Throws where the worker would not start.</summary>
    /// <exception cref="PythonEnvironmentException">The first reason, with its remedy.</exception>
    public void Check(string interpreter)
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

        if (Missing.Count > 0)
        {
            throw new PythonEnvironmentException(
                PythonEnvironmentProblem.DependencyMissing,
                $"'{interpreter}' has memory-worker {Version} without what it needs, {string.Join(" and ", Missing)}: "
                    + $"run '{interpreter} -m pip install memory-worker'");
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

    private static List<string> Texts(JsonElement list) => [.. list.EnumerateArray().Select(one => one.GetString()!)];
}

using System.Runtime.CompilerServices;

namespace MemoryWorker.Client.Environments;

/// <summary>Looks for a Python that is new enough, where people have them.</summary>
/// <param name="patience">Time for each that is asked.</param>
/// <param name="progress">Told of those that can't be asked.</param>
/// <param name="cancellationToken">Ends what is asked.</param>
internal sealed class PythonFinder(TimeSpan patience, IProgress<string>? progress, CancellationToken cancellationToken)
{
    /// <summary>Before what it says of itself: what is imported at its start may print, too.</summary>
    private const string Mark = "memory-worker-python:";

    /// <summary>Understood, options included, by every Python that is still found.</summary>
    private static readonly string[] SayYourself =
        ["-E", "-s", "-c", $"import sys; print('{Mark}' + '%d.%d.%d' % sys.version_info[:3] + ' ' + sys.executable)"];

    /// <summary>Shells, and Windows where a name stands for its store, end so where there is no such program.</summary>
    private static readonly int[] NotThere = [127, 9009];

    /// <summary>Pythons that were asked, newest enough or not, and why others could not be.</summary>
    private readonly List<FoundPython> _seen = [];
    private readonly List<string> _silent = [];

    /// <summary>Returns the first that is new enough.</summary>
    /// <exception cref="PythonEnvironmentException">There is none, or all are too old or can't be asked; the message names them.</exception>
    public async Task<FoundPython> FindAsync(string? wanted)
    {
        await foreach (var found in CandidatesAsync(wanted).ConfigureAwait(false))
        {
            if (found.IsNewEnough)
            {
                return found;
            }

            _seen.Add(found);
        }

        var old = _seen.DistinctBy(one => one.Path).Select(one => $"'{one.Path}' is {one.Version}");
        var all = string.Join(" and ", old.Concat(_silent));
        var remedy = $"install Python {FoundPython.Needed} or newer (python.org, the system's packages, or 'uv python install "
            + $"{FoundPython.Needed}'), or name one with {nameof(PythonEnvironmentOptions)}.{nameof(PythonEnvironmentOptions.BasePython)}";
        throw (_seen.Count, _silent.Count) switch
        {
            ( > 0, _) => new PythonEnvironmentException(
                PythonEnvironmentProblem.TooOld, $"the worker needs Python {FoundPython.Needed} or newer, and {all}: {remedy}"),
            (_, > 0) => new PythonEnvironmentException(
                PythonEnvironmentProblem.NotFound, $"no Python was found that can be started, {all}: {remedy}"),
            _ => new PythonEnvironmentException(
                PythonEnvironmentProblem.NotFound,
                wanted is null
                    ? $"no Python was found ({string.Join(", ", Names())} and uv were looked for on PATH): {remedy}"
                    : $"there is no '{wanted}': {remedy}"),
        };
    }

    private async IAsyncEnumerable<FoundPython> CandidatesAsync(string? wanted)
    {
        foreach (var name in wanted is null ? Names() : [wanted])
        {
            string[] parts = wanted is null ? name.Split(' ') : [name];
            if (await AskAsync(parts[0], parts[1..]).ConfigureAwait(false) is { } found)
            {
                yield return found;
            }
        }

        string[] find = ["python", "find", "--no-project", $">={FoundPython.Needed}"];
        if (wanted is null
            && await RunAsync("uv", find).ConfigureAwait(false) is { ExitCode: 0 } uv
            && await AskAsync(uv.Output.Trim(), []).ConfigureAwait(false) is { } own)
        {
            yield return own;
        }
    }

    /// <summary>Asks an interpreter who it is; null where it is none.</summary>
    private async Task<FoundPython?> AskAsync(string fileName, IEnumerable<string> first)
    {
        var ran = await RunAsync(fileName, [.. first, .. SayYourself]).ConfigureAwait(false);
        if (ran is null || NotThere.Contains(ran.ExitCode))
        {
            return null;
        }

        if (ran.Marked(Mark)?.Split(' ', 2) is [var version, var path])
        {
            return new FoundPython(path, version);
        }

        Silent($"'{fileName}' is no Python that can be started ({ran.WhyNoAnswer})");
        return null;
    }

    /// <summary>Runs it; null where there is no such program, or it takes too long, which is noted.</summary>
    private async Task<Ran?> RunAsync(string fileName, IEnumerable<string> arguments)
    {
        try
        {
            return await Tool.RunAsync(fileName, arguments, patience, cancellationToken).ConfigureAwait(false);
        }
        catch (TimeoutException late)
        {
            Silent(late.Message);
            return null;
        }
    }

    private void Silent(string why)
    {
        _silent.Add(why);
        progress?.Report(why);
    }

    /// <summary>A name without a version first: it is what the user chose.</summary>
    private static string[] Names() => OperatingSystem.IsWindows()
        ? ["py -3", "python"]
        : ["python3", "python", "python3.14", "python3.13", "python3.12", "python3.11"];
}

namespace MemoryWorker.Client.Environments;

/// <summary>Looks for a Python that is new enough, where people have them.</summary>
internal static class PythonFinder
{
    private const string SayYourself = "import sys; print(sys.executable); print('%d.%d.%d' % sys.version_info[:3])";
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    /// <summary>Asks an interpreter who it is; null where it is none.</summary>
    public static async Task<FoundPython?> AskAsync(string fileName, IEnumerable<string> first, CancellationToken cancellationToken)
    {
        Ran? ran;
        try
        {
            ran = await Tool.RunAsync(fileName, [.. first, "-I", "-c", SayYourself], Patience, cancellationToken).ConfigureAwait(false);
        }
        catch (TimeoutException)
        {
            return null;
        }

        return ran is { ExitCode: 0 } && ran.Output.Split('\n') is [var path, var version, ..]
            ? new FoundPython(path.Trim(), version.Trim())
            : null;
    }

    /// <summary>Returns the first that is new enough.</summary>
    /// <exception cref="PythonEnvironmentException">There is none, or all are too old; the message names them.</exception>
    public static async Task<FoundPython> FindAsync(string? wanted, CancellationToken cancellationToken)
    {
        var seen = new List<FoundPython>();
        await foreach (var found in CandidatesAsync(wanted, cancellationToken).ConfigureAwait(false))
        {
            if (found.IsNewEnough)
            {
                return found;
            }

            seen.Add(found);
        }

        var remedy = $"install Python {FoundPython.Needed} or newer (python.org, the system's packages, or 'uv python install "
            + $"{FoundPython.Needed}'), or name one with {nameof(PythonEnvironmentOptions)}.{nameof(PythonEnvironmentOptions.BasePython)}";
        var old = string.Join(" and ", seen.DistinctBy(one => one.Path).Select(one => $"'{one.Path}' is {one.Version}"));
        throw seen.Count > 0
            ? new PythonEnvironmentException(
                PythonEnvironmentProblem.TooOld, $"the worker needs Python {FoundPython.Needed} or newer, and {old}: {remedy}")
            : new PythonEnvironmentException(
                PythonEnvironmentProblem.NotFound,
                wanted is null
                    ? $"no Python was found ({string.Join(", ", Names())} and uv were looked for on PATH): {remedy}"
                    : $"'{wanted}' is no Python that can be started: {remedy}");
    }

    private static async IAsyncEnumerable<FoundPython> CandidatesAsync(
        string? wanted, [System.Runtime.CompilerServices.EnumeratorCancellation] CancellationToken cancellationToken)
    {
        if (wanted is not null)
        {
            if (await AskAsync(wanted, [], cancellationToken).ConfigureAwait(false) is { } named)
            {
                yield return named;
            }

            yield break;
        }

        foreach (var name in Names())
        {
            var parts = name.Split(' ');
            if (await AskAsync(parts[0], parts[1..], cancellationToken).ConfigureAwait(false) is { } found)
            {
                yield return found;
            }
        }

        var uv = await Tool.RunAsync(
            "uv", ["python", "find", "--no-project", $">={FoundPython.Needed}"], Patience, cancellationToken).ConfigureAwait(false);
        if (uv is { ExitCode: 0 } && await AskAsync(uv.Output.Trim(), [], cancellationToken).ConfigureAwait(false) is { } own)
        {
            yield return own;
        }
    }

    /// <summary>A name without a version first: it is what the user chose.</summary>
    private static string[] Names() => OperatingSystem.IsWindows()
        ? ["py -3", "python"]
        : ["python3", "python", "python3.14", "python3.13", "python3.12", "python3.11"];
}

using System.Text.RegularExpressions;

namespace MemoryWorker.Client.Environments;

/// <summary>Names of the worker's optional parts.</summary>
internal static class Extras
{
    /// <summary>Throws where one is asked for that there is none of: installers only warn of it.</summary>
    /// <exception cref="PythonEnvironmentException">It is named, with those that there are.</exception>
    public static void Check(IEnumerable<string> asked, IReadOnlyList<string> known)
    {
        var names = known.Select(Normal).ToHashSet();
        if (asked.FirstOrDefault(one => !names.Contains(Normal(one))) is { } unknown)
        {
            throw new PythonEnvironmentException(
                PythonEnvironmentProblem.ExtraUnknown,
                $"memory-worker has no extra '{unknown}': {nameof(PythonEnvironmentOptions)}.{nameof(PythonEnvironmentOptions.Extras)} "
                    + $"can have {string.Join(", ", known)}");
        }
    }

    /// <summary>A package with its extras, as installers take it: <c>memory-worker[cuda,top]</c>.</summary>
    public static string Of(string package, IReadOnlyCollection<string> extras) =>
        extras.Count == 0 ? package : $"{package}[{string.Join(",", extras)}]";

    /// <summary>As packaging tools compare names.</summary>
    private static string Normal(string name) => Regex.Replace(name, "[-_.]+", "-").ToLowerInvariant();
}

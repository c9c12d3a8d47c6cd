using MemoryWorker.Client.Processes;

namespace MemoryWorker.Client.Environments;

/// <summary>How a program ended.</summary>
internal sealed record Ran(int ExitCode, string Output, string Errors)
{
    /// <summary>What it said last, for an exception: one line.</summary>
    public string LastWord =>
        Errors.Split('\n').Concat(Output.Split('\n')).Select(line => line.Trim())
            .LastOrDefault(line => line.StartsWith("ERROR", StringComparison.OrdinalIgnoreCase))
        ?? Errors.Split('\n').LastOrDefault(line => line.Trim().Length > 0)?.Trim()
        ?? ExitCodes.Describe(ExitCode);

    /// <summary>Why there is no <see cref="Marked"/> answer, for an exception.</summary>
    public string WhyNoAnswer => ExitCode == 0 ? "it did not say which it is" : LastWord;

    /// <summary>What follows a mark at the start of a line, the last such line, whatever else was printed; null where there is none.</summary>
    public string? Marked(string mark) =>
        ExitCode == 0
            ? Output.Split('\n').LastOrDefault(line => line.StartsWith(mark, StringComparison.Ordinal))?[mark.Length..].Trim()
            : null;
}

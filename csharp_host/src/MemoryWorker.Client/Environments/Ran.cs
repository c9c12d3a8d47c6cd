namespace MemoryWorker.Client.Environments;

/// <summary>How a program ended.</summary>
internal sealed record Ran(int ExitCode, string Output, string Errors)
{
    /// <summary>What it said last, for an exception: one line.</summary>
    public string LastWord =>
        Errors.Split('\n').Concat(Output.Split('\n')).Select(line => line.Trim())
            .LastOrDefault(line => line.StartsWith("ERROR", StringComparison.OrdinalIgnoreCase))
        ?? Errors.Split('\n').LastOrDefault(line => line.Trim().Length > 0)?.Trim()
        ?? $"exit code {ExitCode}";
}

using System.ComponentModel;
using System.Diagnostics;
using MemoryWorker.Client.Processes;

namespace MemoryWorker.Client.Environments;

/// <summary>Runs a program to its end and hands back what it said.</summary>
internal static class Tool
{
    /// <summary>Returns the end of a program; null where there is no such program.</summary>
    /// <exception cref="TimeoutException">It took too long and was ended.</exception>
    public static async Task<Ran?> RunAsync(
        string fileName,
        IEnumerable<string> arguments,
        TimeSpan timeout,
        CancellationToken cancellationToken,
        string? workingDirectory = null,
        Action<string>? line = null)
    {
        var start = new ProcessStartInfo(fileName, arguments)
        {
            UseShellExecute = false,
            CreateNoWindow = true,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = workingDirectory ?? string.Empty,
        };
        start.Environment["PYTHONIOENCODING"] = "utf-8";
        start.Environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1";
        start.Environment["PIP_NO_INPUT"] = "1";
        start.Environment["PIP_PROGRESS_BAR"] = "off"; // Each line is told as progress.
        using var process = new Process { StartInfo = start };
        try
        {
            process.Start();
        }
        catch (Exception problem) when (problem is Win32Exception or InvalidOperationException)
        {
            return null;
        }

        process.StandardInput.Close();
        var output = ReadAsync(process.StandardOutput, line);
        var errors = ReadAsync(process.StandardError, line);
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken);
        limit.CancelAfter(timeout);
        try
        {
            await process.WaitForExitAsync(limit.Token).ConfigureAwait(false);
            await Task.WhenAll(output, errors).WaitAsync(limit.Token).ConfigureAwait(false); // What it started may hold its pipes.
        }
        catch (OperationCanceledException)
        {
            ProcessTree.Kill(process);
            cancellationToken.ThrowIfCancellationRequested();
            throw new TimeoutException($"'{fileName}' did not finish within {timeout.TotalSeconds:0.###} s");
        }

        return new Ran(
            process.ExitCode, await output.ConfigureAwait(false), await errors.ConfigureAwait(false));
    }

    private static async Task<string> ReadAsync(StreamReader reader, Action<string>? told)
    {
        var lines = new List<string>();
        while (await reader.ReadLineAsync().ConfigureAwait(false) is { } line)
        {
            lines.Add(line);
            told?.Invoke(line);
        }

        return string.Join('\n', lines);
    }
}

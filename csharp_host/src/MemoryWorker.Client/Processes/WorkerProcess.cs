using System.ComponentModel;
using System.Diagnostics;
using System.Text;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client.Processes;

/// <summary>One operating-system process with three raw pipes. Every wait is bounded.</summary>
internal sealed class WorkerProcess : IDisposable
{
    /// <summary>Tells the worker what this host can map. One that is too old for it makes files.</summary>
    private const string SharedMemoryVariable = "MEMORY_WORKER_SHARED_MEMORY";

    private readonly Process _process;
    private readonly WindowsJob? _job;

    private WorkerProcess(Process process, WindowsJob? job)
    {
        _process = process;
        _job = job;
        Id = process.Id;
        Stdin = process.StandardInput.BaseStream;
        Stdout = process.StandardOutput.BaseStream;
        Stderr = process.StandardError.BaseStream;
        Exited = process.WaitForExitAsync();
    }

    public int Id { get; }

    /// <summary>Completes when the process has ended, whoever still holds its pipes.</summary>
    public Task Exited { get; }

    public Stream Stdin { get; }

    public Stream Stdout { get; }

    public Stream Stderr { get; }

    /// <summary>128 + signal for a process that was killed; null while it runs. Not after disposal.</summary>
    public int? ExitCode => Exited.IsCompleted ? _process.ExitCode : null;

    /// <summary>Starts the worker without a shell.</summary>
    /// <exception cref="WorkerStartException">The executable or its folder is missing, or it may not be run.</exception>
    public static WorkerProcess Start(PythonWorkerOptions options)
    {
        Interpreter.CheckFolder(options);
        var start = new ProcessStartInfo(options.FileName)
        {
            UseShellExecute = false,
            CreateNoWindow = true,
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            // Encoding.UTF8 would put a byte order mark before the first line, although only BaseStream is used.
            StandardInputEncoding = new UTF8Encoding(encoderShouldEmitUTF8Identifier: false),
            WorkingDirectory = options.WorkingDirectory ?? string.Empty,
        };
        foreach (var argument in options.CommandLine)
        {
            start.ArgumentList.Add(argument);
        }

        if (OperatingSystem.IsWindows())
        {
            start.Environment[SharedMemoryVariable] = SharedMemoryKind.Section.ToWord();
        }

        foreach (var (name, value) in options.Environment)
        {
            start.Environment[name] = value;
        }

        var job = OperatingSystem.IsWindows() ? new WindowsJob() : null;
        var process = new Process { StartInfo = start };
        try
        {
            process.Start();
        }
        catch (Exception problem) when (problem is Win32Exception or InvalidOperationException or PlatformNotSupportedException)
        {
            process.Dispose();
            Release(job);
            throw new WorkerStartException(
                "the worker did not start", new WorkerFailure { ForHost = Interpreter.NotStarted(options, problem.Message) }, problem);
        }

        if (OperatingSystem.IsWindows())
        {
            job?.Add(process);
        }

        return new WorkerProcess(process, job);
    }

    /// <summary>Waits up to <paramref name="time"/> for the end of the process; true where it came.</summary>
    public async Task<bool> WaitAsync(TimeSpan time, TimeProvider clock)
    {
        try
        {
            await Exited.WaitAsync(time, clock).ConfigureAwait(false);
            return true;
        }
        catch (TimeoutException)
        {
            return false;
        }
    }

    /// <summary>Ends the process and what it started. Does not wait and does not throw.</summary>
    public void Kill() => ProcessTree.Kill(_process);

    public void Dispose()
    {
        _process.Dispose();
        Stdout.Dispose(); // Process closes no stream that was asked for.
        Stderr.Dispose();
        Release(_job);
    }

    private static void Release(WindowsJob? job)
    {
        if (OperatingSystem.IsWindows())
        {
            job?.Dispose();
        }
    }
}

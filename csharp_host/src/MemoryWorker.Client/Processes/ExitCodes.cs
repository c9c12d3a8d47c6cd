using System.Globalization;

namespace MemoryWorker.Client.Processes;

/// <summary>Says what a process's exit code means.</summary>
internal static class ExitCodes
{
    private const int Signals = 128;

    private static readonly Dictionary<int, string> OfSignals = new()
    {
        [2] = "SIGINT, as Ctrl-C sends it",
        [4] = "SIGILL: an instruction that this processor does not have",
        [6] = "SIGABRT: a library gave up",
        [7] = "SIGBUS: memory that could not be had, such as of a full /dev/shm",
        [8] = "SIGFPE",
        [9] = "SIGKILL: the system does so when memory runs out, a container at its limit, or somebody with kill -9",
        [11] = "SIGSEGV: a crash in native code",
        [13] = "SIGPIPE",
        [15] = "SIGTERM: asked to end from outside",
        [24] = "SIGXCPU: its time ran out",
        [31] = "SIGSYS: the sandbox forbids a system call",
    };

    /// <summary>From ntstatus.h.</summary>
    private static readonly Dictionary<uint, string> OfWindows = new()
    {
        [0xC0000005] = "an access violation: a crash in native code",
        [0xC0000006] = "a page that could not be read",
        [0xC0000017] = "not enough memory",
        [0xC000001D] = "an instruction that this processor does not have",
        [0xC0000094] = "a division by zero in native code",
        [0xC00000FD] = "a stack overflow",
        [0xC000012D] = "the commit limit was reached: memory and page file are full",
        [0xC0000135] = "a DLL was not found",
        [0xC0000139] = "a DLL lacks an entry point",
        [0xC000013A] = "Ctrl-C, or its console was closed",
        [0xC0000142] = "a DLL failed to start",
        [0xC0000374] = "a corrupted heap: a crash in native code",
        [0xC0000409] = "abort(), or a stack buffer overrun: a crash in native code",
        [0xE06D7363] = "an uncaught C++ exception",
    };

    /// <summary><c>exit code 137 (killed by signal 9, SIGKILL: …)</c>; the number alone where it says nothing.</summary>
    public static string Describe(int? code) => Describe(code, OperatingSystem.IsWindows());

    internal static string Describe(int? code, bool windows)
    {
        if (code is not { } number)
        {
            return "exit code unknown";
        }

        return windows ? OnWindows(unchecked((uint)number)) : OnUnix(number);
    }

    private static string OnUnix(int code)
    {
        var signal = code - Signals;
        return signal is > 0 and < 65
            ? $"exit code {code} (ended by signal {signal}{(OfSignals.TryGetValue(signal, out var meaning) ? $", {meaning}" : string.Empty)})"
            : $"exit code {code}";
    }

    private static string OnWindows(uint code)
    {
        if (OfWindows.TryGetValue(code, out var meaning))
        {
            return $"exit code 0x{code:X8} ({meaning})";
        }

        return code < 0xC0000000
            ? string.Create(CultureInfo.InvariantCulture, $"exit code {code}")
            : $"exit code 0x{code:X8} (an exception in native code)";
    }
}

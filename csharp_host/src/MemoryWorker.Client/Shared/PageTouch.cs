using System.Runtime.InteropServices;

namespace MemoryWorker.Client;

/// <summary>Pays for the first touch of pages before somebody waits for it. No byte changes, whoever writes meanwhile.</summary>
internal static unsafe class PageTouch
{
    /// <summary>From linux/mman.h, Linux 5.14: fault all pages in at once, writable.</summary>
    private const int PopulateWrite = 23;

    private const int InvalidArgument = 22;

    /// <summary>About a millisecond's worth, so that an end is seen soon.</summary>
    private const long StepBytes = 4 << 20;

    public static void All(byte* start, long bytes, CancellationToken ending)
    {
        var populates = OperatingSystem.IsLinux();
        // From the end: who writes meanwhile most often comes from the start, and two at one page hold each other up.
        for (var offset = (bytes - 1) / StepBytes * StepBytes; offset >= 0 && !ending.IsCancellationRequested; offset -= StepBytes)
        {
            var step = Math.Min(StepBytes, bytes - offset);
            if (populates && Advise(start + offset, (nuint)step, PopulateWrite) != 0)
            {
                if (Marshal.GetLastPInvokeError() != InvalidArgument)
                {
                    return; // There are no pages: a touch would be a signal. Whoever needs them learns it.
                }

                populates = false; // The kernel is older.
            }

            if (!populates)
            {
                Touch(start + offset, step);
            }
        }
    }

    /// <summary>A locked write of what is there: no other write is lost.</summary>
    private static void Touch(byte* start, long bytes)
    {
        for (long offset = 0; offset < bytes; offset += Environment.SystemPageSize)
        {
            Interlocked.CompareExchange(ref *(int*)(start + offset), 0, 0); // A page has more than four bytes.
        }
    }

    [DllImport("libc", EntryPoint = "madvise", SetLastError = true)]
    private static extern int Advise(byte* start, nuint length, int advice);
}

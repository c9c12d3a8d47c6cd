using System.ComponentModel;
using System.Diagnostics;

namespace MemoryWorker.Client.Processes;

/// <summary>A process and what it started.</summary>
internal static class ProcessTree
{
    /// <summary>Ends them. Does not wait and does not throw.</summary>
    public static void Kill(Process root)
    {
        try
        {
            root.Kill(entireProcessTree: true);
        }
        catch (Exception problem) when (problem is InvalidOperationException or Win32Exception or AggregateException)
        {
            // It ended by itself, or a child of it did while the tree was walked.
        }
    }
}

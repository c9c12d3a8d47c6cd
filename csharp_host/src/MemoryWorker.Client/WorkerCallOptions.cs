using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>How one call differs from the others.</summary>
public sealed record WorkerCallOptions
{
    /// <summary>Time for the whole call; null for <see cref="PythonWorkerOptions.RequestTimeout"/>.</summary>
    public TimeSpan? Timeout { get; init; }

    /// <summary>Told how far the work has come, in order and never after the call has ended.</summary>
    public IProgress<ProgressData>? Progress { get; init; }

    /// <summary>
    /// The action changes nothing: where its worker dies, the next one is asked, once. For actions that the contract does
    /// not know; of its own it knows which are reads.
    /// </summary>
    public bool IsRead { get; init; }
}

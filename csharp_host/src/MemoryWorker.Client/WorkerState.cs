namespace MemoryWorker.Client;

/// <summary>What the supervisor is doing.</summary>
public enum WorkerState
{
    /// <summary>No worker was needed yet.</summary>
    NotStarted,

    /// <summary>The first worker is starting.</summary>
    Starting,

    /// <summary>A worker answers.</summary>
    Running,

    /// <summary>A worker died and its successor is waited for.</summary>
    Restarting,

    /// <summary>Too many workers died: calls fail at once until the break is over.</summary>
    BreakerOpen,

    /// <summary>The service was disposed.</summary>
    Disposed,
}

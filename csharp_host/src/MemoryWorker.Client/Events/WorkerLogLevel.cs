namespace MemoryWorker.Client;

/// <summary>How much a line on the worker's stderr matters.</summary>
public enum WorkerLogLevel
{
    /// <summary>For whoever is looking for a fault.</summary>
    Debug,

    /// <summary>Normal running.</summary>
    Information,

    /// <summary>Something odd, and every line that is not JSON.</summary>
    Warning,

    /// <summary>A request or a device failed.</summary>
    Error,

    /// <summary>The worker cannot go on.</summary>
    Critical,
}

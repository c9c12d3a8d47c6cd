namespace MemoryWorker.Client;

/// <summary>The kinds of Python worker that a host can talk to.</summary>
public enum PythonWorkerTypes
{
    /// <summary>The memory worker: actions named <c>memory.*</c> and <c>worker.*</c>.</summary>
    Memory,
}

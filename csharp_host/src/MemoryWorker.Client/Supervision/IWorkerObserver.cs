using MemoryWorker.Client.Transport;

namespace MemoryWorker.Client;

/// <summary>What a connection tells its supervisor. Called on reader threads: returns soon, never throws.</summary>
internal interface IWorkerObserver
{
    void OnLog(WorkerLogEntry entry);

    void OnJunk(int processId, string excerpt);

    void OnEvent(WorkerEvent one);

    /// <summary>The process has ended; its calls are failed right after.</summary>
    void OnExited(WorkerConnection connection, WorkerExit exit);
}

using MemoryWorker.Client.Transport;

namespace MemoryWorker.Client;

/// <summary>Where a supervisor's news go. Called outside its lock, from any thread: returns soon, never throws.</summary>
internal interface IWorkerSink
{
    void OnLog(WorkerLogEntry entry);

    void OnEvent(WorkerEvent one);

    /// <summary>A worker answers that no call has been sent to yet. Cancelled, it returns soon: the worker is to end.</summary>
    Task OnConnectedAsync(WorkerConnection connection, CancellationToken cancellationToken);

    void OnStarted(WorkerStartedEventArgs started);

    void OnExited(WorkerExitedEventArgs exited);

    void OnStartFailed(WorkerStartException problem);
}

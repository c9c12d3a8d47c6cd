using System.Text.Json;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client.Transport;

/// <summary>A request without a terminal reply. The caller may have left already; the slot stays until the reply.</summary>
internal abstract class PendingCall(string requestId, WireAction action, IProgress<ProgressData>? progress)
{
    private const int Queued = 0;
    private const int Begun = 1;
    private const int Withdrawn = 2;

    private int _writing;

    public string RequestId { get; } = requestId;

    public string Action => action.Name;

    /// <summary>Answered also while the worker is overloaded; takes no slot.</summary>
    public bool Control => action.IsControl;

    /// <summary>Not to be sent twice unless no byte of it was written.</summary>
    public bool Changes => action.Changes;

    public bool WantsProgress => progress is not null;

    /// <summary>Where it was sent, once it is.</summary>
    public WorkerConnection? Connection { get; private set; }

    /// <summary>The time it has.</summary>
    public CallLimit Limit { get; private set; }

    /// <summary>Whether a byte of it may have reached the worker.</summary>
    public bool Written => Volatile.Read(ref _writing) == Begun;

    public bool TryBeginWrite() => Interlocked.CompareExchange(ref _writing, Begun, Queued) == Queued;

    /// <summary>True where no byte was written and none will be.</summary>
    public bool TryWithdraw() => Interlocked.CompareExchange(ref _writing, Withdrawn, Queued) == Queued;

    public void SendOn(WorkerConnection connection, CallLimit limit) => (Connection, Limit) = (connection, limit);

    public void Report(ProgressData data) => progress?.Report(data);

    /// <summary>Reads the answer and ends the call. JsonException where the answer is not what it should be.</summary>
    public abstract void Succeed(ReadOnlySpan<byte> data, AllocationLedger ledger);

    /// <summary>Ends the call; false where it has ended already.</summary>
    public abstract bool TryFail(Exception problem);

    /// <inheritdoc cref="TryFail"/>
    public abstract bool TryCancel(CancellationToken token);
}

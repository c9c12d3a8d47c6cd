using System.Text.Json;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client.Transport;

/// <inheritdoc cref="PendingCall"/>
internal sealed class PendingCall<TRequest, TResponse>(
    string requestId, WireAction<TRequest, TResponse> action, TRequest request, IProgress<ProgressData>? progress)
    : PendingCall(requestId, action, progress)
    where TRequest : class, IWireRecord<TRequest>
    where TResponse : class, IWireRecord<TResponse>
{
    private readonly TaskCompletionSource<TResponse> _done = new(TaskCreationOptions.RunContinuationsAsynchronously);

    public TRequest Request => request;

    public Task<TResponse> Task => _done.Task;

    public override void Succeed(ReadOnlySpan<byte> data, AllocationLedger ledger)
    {
        var reader = new Utf8JsonReader(data);
        reader.Read();
        var response = TResponse.Read(ref reader, strict: false);
        ledger.Observe(Action, request, response);
        if (!_done.TrySetResult(response))
        {
            ledger.Orphan(Action, request, response);
        }
    }

    public override bool TryFail(Exception problem) => _done.TrySetException(problem);

    public override bool TryCancel(CancellationToken token) => _done.TrySetCanceled(token);
}

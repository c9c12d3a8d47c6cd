using System.Diagnostics;
using System.Text.Json;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client.Transport;

/// <content>How a call is sent, given up and failed.</content>
internal sealed partial class WorkerConnection
{
    /// <summary>The most that <c>memory.get_allocations</c> gives at once.</summary>
    private const int AllocationsPerPage = 10_000;

    private static readonly Action<object?, CancellationToken> OnCancelled = static (state, token) =>
    {
        var call = (PendingCall)state!;
        if (call.TryCancel(token))
        {
            call.Connection!.Abandon(call);
        }
    };

    /// <summary>Makes a call that is ready to be sent once.</summary>
    public PendingCall<TRequest, TResponse> NewCall<TRequest, TResponse>(
        WireAction<TRequest, TResponse> action, TRequest request, IProgress<ProgressData>? progress = null)
        where TRequest : class, IWireRecord<TRequest>
        where TResponse : class, IWireRecord<TResponse> =>
        new(_ids.Next(), action, request, progress);

    /// <summary>Sends a call and waits for its reply.</summary>
    public async Task<TResponse> SendAsync<TRequest, TResponse>(
        PendingCall<TRequest, TResponse> call, CallLimit limit, CancellationToken cancellationToken)
        where TRequest : class, IWireRecord<TRequest>
        where TResponse : class, IWireRecord<TResponse>
    {
        if (!call.Control && !_slots.Wait(0, CancellationToken.None))
        {
            await WaitForSlotAsync(call, limit, cancellationToken).ConfigureAwait(false);
        }

        call.SendOn(this, limit);
        _router.Add(call);
        if (_exit is { } exit)
        {
            _router.Remove(call);
            throw Exited(exit, call.RequestId, written: false, call.Changes);
        }

        try
        {
            Write(call, call.Request, limit);
        }
        catch
        {
            _router.Remove(call); // Nothing was queued: the request could not be encoded.
            throw;
        }

        using var cancelled = cancellationToken.UnsafeRegister(OnCancelled, call);
        using var expired = limit.Expired.UnsafeRegister(OnExpired, call);
        return await call.Task.ConfigureAwait(false);
    }

    /// <summary>As with a limit, of which the worker is not told.</summary>
    public async Task<TResponse> SendAsync<TRequest, TResponse>(
        PendingCall<TRequest, TResponse> call, TimeSpan time, CancellationToken cancellationToken)
        where TRequest : class, IWireRecord<TRequest>
        where TResponse : class, IWireRecord<TResponse>
    {
        using var timeout = new CancellationTokenSource(time, _options.TimeProvider);
        return await SendAsync(call, new CallLimit(time, timeout.Token, null), cancellationToken).ConfigureAwait(false);
    }

    private static void OnExpired(object? state)
    {
        var call = (PendingCall)state!;
        var connection = call.Connection!;
        var failure = new WorkerFailure
        {
            Executed = call.Written && call.Changes ? Executed.Unknown : Executed.No,
            RequestId = call.RequestId,
            ProcessId = connection.ProcessId,
        };
        if (call.TryFail(call.Limit.Exceeded(call.Action, failure)))
        {
            connection.Abandon(call);
            _ = connection.ProbeAsync();
        }
    }

    private async Task WaitForSlotAsync(PendingCall call, CallLimit limit, CancellationToken cancellationToken)
    {
        using var either = CancellationTokenSource.CreateLinkedTokenSource(cancellationToken, limit.Expired, _stop.Token);
        try
        {
            await _slots.WaitAsync(either.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            cancellationToken.ThrowIfCancellationRequested();
            if (limit.Expired.IsCancellationRequested)
            {
                throw limit.Exceeded(call.Action, new WorkerFailure { RequestId = call.RequestId, ProcessId = ProcessId });
            }

            throw Exited(_exit, call.RequestId, written: false, call.Changes);
        }
    }

    private void Write<TRequest>(PendingCall call, TRequest request, CallLimit limit)
        where TRequest : class, IWireRecord<TRequest>
    {
        var activity = Activity.Current;
        var meta = new RequestMeta(
            limit.DeadlineMs(_options.TimeProvider),
            call.WantsProgress,
            activity is { IdFormat: ActivityIdFormat.W3C } ? activity.Id : null);
        var frame = RequestFrame.Encode(call.RequestId, call.Action, request, meta);
        if (Hello is { Limits.MaxFrameBytes: var most } && frame.Length - 1 > most)
        {
            var length = frame.Length - 1;
            frame.Release();
            throw TooLarge(call, length, most);
        }

        _writer.Enqueue(call, frame);
    }

    private WorkerRequestException TooLarge(PendingCall call, int length, long most)
    {
        var reason = $"the request has {length} bytes; {most} are allowed";
        using var details = JsonDocument.Parse($$"""{"frame_bytes":{{length}},"max_frame_bytes":{{most}}}""");
        var failure = new WorkerFailure { RequestId = call.RequestId, ProcessId = ProcessId };
        return new(ErrorCode.FrameTooLarge, call.Action, reason, details.RootElement.Clone(), failure);
    }

    /// <summary>The caller has left. Unwritten, the call is forgotten; otherwise the worker is asked to cancel it.</summary>
    private void Abandon(PendingCall call)
    {
        if (call.TryWithdraw())
        {
            _router.Remove(call);
        }
        else if (!call.Control)
        {
            _ = TellAsync(WireActions.WorkerCancel, new CancelParams { RequestId = call.RequestId });
        }
    }

    private void OnSettled(PendingCall call)
    {
        if (!call.Control)
        {
            _slots.Release();
        }
    }

    private Task GiveBackAsync(string allocationId) =>
        TellAsync(WireActions.Deallocate, new DeallocateParams { AllocationId = allocationId, Force = true });

    /// <summary>After a clear that freed more than its answer lists: what the worker's own list lacks is gone.</summary>
    private async Task ReconcileAsync(IReadOnlyCollection<string> held)
    {
        var gone = held.ToHashSet(StringComparer.Ordinal);
        try
        {
            for (string? after = null; ;)
            {
                var request = new GetAllocationsParams { Limit = AllocationsPerPage, After = after };
                var page = await SendAsync(NewCall(WireActions.GetAllocations, request), default(CallLimit), default).ConfigureAwait(false);
                gone.ExceptWith(page.Allocations.Select(one => one.AllocationId));
                if (page.Next is null)
                {
                    break;
                }

                after = page.Next;
            }

            _allocations.Remove(gone);
        }
        catch (WorkerException)
        {
            // It died, or cannot say: what it held counts until its end.
        }
    }

    /// <summary>Sends what no caller waits for. Does not throw.</summary>
    private async Task TellAsync<TRequest, TResponse>(WireAction<TRequest, TResponse> action, TRequest request)
        where TRequest : class, IWireRecord<TRequest>
        where TResponse : class, IWireRecord<TResponse>
    {
        try
        {
            await SendAsync(NewCall(action, request), default(CallLimit), default).ConfigureAwait(false);
        }
        catch (WorkerException)
        {
            // The worker is dead, or knows nothing of it any more: there is nothing left to cancel or to give back.
        }
    }

    /// <summary>After a timeout: a worker that does not even answer a ping is hung and is killed.</summary>
    private async Task ProbeAsync()
    {
        if (Hello is null || Interlocked.Exchange(ref _probing, 1) == 1)
        {
            return;
        }

        try
        {
            await SendAsync(NewCall(WireActions.WorkerPing, new PingParams()), _options.PingTimeout, default).ConfigureAwait(false);
        }
        catch (WorkerTimeoutException)
        {
            Kill($"it did not answer a ping within {_options.PingTimeout.TotalSeconds:0.###} s");
        }
        catch (WorkerException)
        {
            // It died meanwhile, or answers with an error: then it answers.
        }
        finally
        {
            Volatile.Write(ref _probing, 0);
        }
    }

    private WorkerExitedException Exited(WorkerExit? exit, string requestId, bool written, bool changes) =>
        new(
            exit?.Reason ?? $"the worker (process {ProcessId}) has ended",
            new WorkerFailure
            {
                Executed = written && changes ? Executed.Unknown : Executed.No,
                Retryable = true,
                RequestId = requestId,
                ProcessId = ProcessId,
                ExitCode = exit?.ExitCode,
                StderrTail = exit?.StderrTail ?? _stderr.Tail,
            });
}

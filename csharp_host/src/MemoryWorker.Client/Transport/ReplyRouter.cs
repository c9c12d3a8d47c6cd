using System.Collections.Concurrent;
using System.Text.Json;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client.Transport;

/// <summary>Brings each line on stdout to the call that waits for it. Called by one reader, answers on it.</summary>
internal sealed class ReplyRouter(int processId, AllocationLedger ledger, IWorkerObserver observer) : ILineSink
{
    private readonly ConcurrentDictionary<string, PendingCall> _pending = new(StringComparer.Ordinal);

    /// <summary>Called when a call has its terminal reply, or needs none any more.</summary>
    public event Action<PendingCall>? Settled;

    public int Count => _pending.Count;

    public void Add(PendingCall call) => _pending[call.RequestId] = call;

    public bool Remove(PendingCall call)
    {
        if (!_pending.TryRemove(call.RequestId, out _))
        {
            return false;
        }

        Settled?.Invoke(call);
        return true;
    }

    /// <summary>Ends every call that is left.</summary>
    public void FailAll(Func<PendingCall, Exception> problem)
    {
        foreach (var call in _pending.Values)
        {
            if (Remove(call))
            {
                call.TryFail(problem(call));
            }
        }
    }

    public void OnLine(ReadOnlySpan<byte> line)
    {
        if (!Frame.TryParse(line, out var frame, out var problem))
        {
            OnUnreadable(line, problem?.Message ?? "the line is no reply", problem);
        }
        else if (frame.Success is null)
        {
            OnEvent(frame, line);
        }
        else if (frame.RequestId is { } id && _pending.TryGetValue(id, out var call) && Remove(call))
        {
            OnReply(call, frame);
        }
        else
        {
            observer.OnJunk(processId, Frame.Excerpt(line)); // Answered twice, or never asked.
        }
    }

    public void OnTooLong(ReadOnlySpan<byte> head, long length) =>
        OnUnreadable(head, $"the answer has {length} bytes, more than {nameof(PythonWorkerOptions.MaxReplyBytes)}");

    public void OnUnfinished(ReadOnlySpan<byte> rest) => observer.OnJunk(processId, Frame.Excerpt(rest));

    /// <summary>Fails the call that the line would have answered, so that it does not wait for its timeout.</summary>
    private void OnUnreadable(ReadOnlySpan<byte> line, string why, Exception? problem = null)
    {
        observer.OnJunk(processId, Frame.Excerpt(line));
        for (var rest = Frame.LooksLikeReply(line) ? line : []; Frame.TryFindRequestId(ref rest, out var id);)
        {
            if (_pending.TryGetValue(id, out var call) && Remove(call))
            {
                call.TryFail(Unreadable(call, why, problem));
                return; // Further ids are part of its data.
            }
        }
    }

    private void OnReply(PendingCall call, Frame frame)
    {
        try
        {
            if (frame.Success == true)
            {
                call.Succeed(frame.Data, ledger);
            }
            else
            {
                call.TryFail(Refused(call, frame.Error));
            }
        }
        catch (Exception problem)
        {
            // Whatever a type's own reader throws is this call's problem: the reader of the pipe must go on.
            call.TryFail(Unreadable(call, problem.Message, problem));
        }
    }

    private WorkerException Refused(PendingCall call, ReadOnlySpan<byte> error)
    {
        var reader = new Utf8JsonReader(error);
        var body = ErrorBody.Read(ref reader, strict: false);
        var refused = new WorkerRequestException(body, call.Action, call.RequestId, processId);
        // The worker's clock may be the first to see that the time of the call is over.
        return body.Code == ErrorCode.DeadlineExceeded && call.Limit.Since is not null
            ? call.Limit.Exceeded(call.Action, WorkerFailure.Of(refused))
            : refused;
    }

    private void OnEvent(Frame frame, ReadOnlySpan<byte> line)
    {
        try
        {
            if (frame.RequestId is not { } id)
            {
                var one = WorkerEventReader.Read(frame.Event!, frame.Sequence, processId, frame.Data);
                ledger.Observe(one);
                observer.OnEvent(one);
            }
            else if (frame.Event == WireEvents.Progress && _pending.TryGetValue(id, out var call))
            {
                var reader = new Utf8JsonReader(frame.Data);
                reader.Read();
                call.Report(ProgressData.Read(ref reader, strict: false));
            }
        }
        catch (Exception problem) when (IsUnreadable(problem))
        {
            observer.OnJunk(processId, Frame.Excerpt(line));
        }
    }

    private static bool IsUnreadable(Exception problem) =>
        problem is JsonException or InvalidOperationException or FormatException or OverflowException;

    private WorkerProtocolException Unreadable(PendingCall call, string why, Exception? inner = null) =>
        new(
            $"{call.Action}: the answer could not be read: {why}",
            new WorkerFailure { Executed = Executed.Unknown, RequestId = call.RequestId, ProcessId = processId },
            inner);
}

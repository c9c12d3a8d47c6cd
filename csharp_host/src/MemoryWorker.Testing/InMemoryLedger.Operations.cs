using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>Operations of the host: their time by the clock; what a process takes is not known here.</summary>
internal sealed partial class InMemoryLedger
{
    private const int OperationsMax = 1024;

    private readonly Dictionary<string, (string Name, long StartedAt)> _operations = [];
    private long _lastOperation;

    private OperationBeginResult BeginOperation(OperationBeginParams asked)
    {
        if (_operations.Count >= OperationsMax)
        {
            var (oldest, first) = _operations.MinBy(one => one.Value.StartedAt);
            throw Refused(
                ErrorCode.LimitExceeded,
                OperationActions.Begin,
                $"{OperationsMax} operations are under way, the oldest of them {oldest}, '{first.Name}'; end those that are over with operation.end",
                new Dictionary<string, object?> { ["operation_id"] = oldest });
        }

        var id = ids.Make("operation", ++_lastOperation);
        _operations.Add(id, (asked.Name, clock.GetTimestamp()));
        return new() { OperationId = id };
    }

    private OperationEndResult EndOperation(OperationEndParams asked)
    {
        var id = ids.Complete(asked.OperationId);
        if (!_operations.Remove(id, out var operation))
        {
            var why = ids.IsOfAnother(id) ? "it was of another worker process" : "it is over, or never began";
            throw Refused(
                ErrorCode.OperationNotFound,
                OperationActions.End,
                $"no operation '{id}': {why}",
                new Dictionary<string, object?> { ["operation_id"] = id });
        }

        var took = (long)clock.GetElapsedTime(operation.StartedAt).TotalMicroseconds;
        _calls.Add(($"operation:{operation.Name}", operation.StartedAt, took, asked.Failed));
        return new() { Name = operation.Name, DurationUs = took, PeakBytes = null, DeltaBytes = null };
    }
}

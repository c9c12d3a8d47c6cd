using MemoryWorker.Client;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Testing;

/// <summary>Operations of the host: their time by the clock; what a process takes is not known here.</summary>
internal sealed partial class InMemoryLedger
{
    private readonly Dictionary<string, (string Name, long StartedAt)> _operations = [];
    private long _lastOperation;

    private OperationBeginResult BeginOperation(OperationBeginParams asked)
    {
        var id = $"operation-{++_lastOperation}";
        _operations.Add(id, (asked.Name, clock.GetTimestamp()));
        return new() { OperationId = id };
    }

    private OperationEndResult EndOperation(OperationEndParams asked)
    {
        if (!_operations.Remove(asked.OperationId, out var operation))
        {
            throw Refused(
                ErrorCode.OperationNotFound,
                OperationActions.End,
                $"no operation '{asked.OperationId}': it is over, or never began",
                new Dictionary<string, object?> { ["operation_id"] = asked.OperationId });
        }

        var took = (long)clock.GetElapsedTime(operation.StartedAt).TotalMicroseconds;
        _calls.Add(($"operation:{operation.Name}", operation.StartedAt, took, asked.Failed));
        return new() { Name = operation.Name, DurationUs = took, PeakBytes = null, DeltaBytes = null };
    }
}

namespace MemoryWorker.Client.Transport;

/// <summary>What stands in <c>meta</c>.</summary>
internal readonly record struct RequestMeta(long? DeadlineMs, bool Progress, string? TraceParent)
{
    public bool IsEmpty => DeadlineMs is null && !Progress && TraceParent is null;
}

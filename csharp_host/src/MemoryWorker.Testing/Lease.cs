namespace MemoryWorker.Testing;

/// <summary>A time from a moment on, of any length that the wire has.</summary>
internal sealed record Lease(DateTimeOffset From, long Milliseconds)
{
    /// <summary>Null where none is asked for.</summary>
    public static Lease? Of(TimeProvider clock, long? milliseconds) =>
        milliseconds is { } time ? new(clock.GetUtcNow(), time) : null;

    public long Left(TimeProvider clock) => Math.Max(0, Milliseconds - (long)(clock.GetUtcNow() - From).TotalMilliseconds);

    public bool IsOver(TimeProvider clock) => Left(clock) == 0;
}

namespace MemoryWorker.Client.Transport;

/// <summary>The time a call has.</summary>
/// <param name="Time">In all.</param>
/// <param name="Expired">Cancelled when it runs out.</param>
/// <param name="Since">The clock's timestamp when it began; null where the worker is not told of it.</param>
internal readonly record struct CallLimit(TimeSpan Time, CancellationToken Expired, long? Since)
{
    /// <summary>What is left, in milliseconds and at least 1; null where the worker is not told.</summary>
    public long? DeadlineMs(TimeProvider clock) =>
        Since is { } start ? Math.Max(1, (long)(Time - clock.GetElapsedTime(start)).TotalMilliseconds) : null;

    public WorkerTimeoutException Exceeded(string action, WorkerFailure failure) =>
        new($"{action} took longer than {Time.TotalSeconds:0.###} s", Time, failure);
}

namespace MemoryWorker.Client.Transport;

/// <summary>The time a call has. <paramref name="Expired"/> is cancelled when it runs out.</summary>
internal readonly record struct CallLimit(TimeSpan Time, CancellationToken Expired, DateTimeOffset Until)
{
    public WorkerTimeoutException Exceeded(string action, WorkerFailure failure) =>
        new($"{action} took longer than {Time.TotalSeconds:0.###} s", Time, failure);
}

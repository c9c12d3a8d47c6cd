namespace MemoryWorker.Client;

/// <summary>
/// Decides what follows a failure, from the failures that still count; does nothing itself. Time is the clock's
/// timestamps: setting the system's date changes nothing.
/// 1. Too many in the window, or one right after a break: open the breaker.
/// 2. Otherwise: restart, after a delay that doubles with every failure in the window.
/// </summary>
internal sealed class RestartPolicy(WorkerRestartOptions options, TimeProvider clock)
{
    private readonly Queue<long> _failures = new();
    private bool _trial;

    /// <summary>Delay until the restart; null where the breaker opens.</summary>
    public TimeSpan? OnFailure()
    {
        while (_failures.TryPeek(out var oldest) && clock.GetElapsedTime(oldest) > options.Window)
        {
            _failures.Dequeue();
        }

        _failures.Enqueue(clock.GetTimestamp());
        if (_trial || _failures.Count > options.MaxRestarts) // 1
        {
            _trial = true; // Until a worker starts: the try after the break has no second one.
            return null;
        }

        var doublings = Math.Min(_failures.Count - 1, 30); // 2
        var delay = options.InitialDelay * Math.Pow(2, doublings);
        return delay < options.MaxDelay ? delay : options.MaxDelay;
    }

    /// <summary>A worker answered: the break, if there was one, is over.</summary>
    public void OnStarted()
    {
        if (_trial)
        {
            _trial = false;
            _failures.Clear();
        }
    }
}

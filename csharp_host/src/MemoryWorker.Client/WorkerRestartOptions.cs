namespace MemoryWorker.Client;

/// <summary>When and how often a dead worker is replaced. Immutable.</summary>
public sealed record WorkerRestartOptions
{
    /// <summary>Wait before the first restart in a window; it doubles with every further one.</summary>
    public TimeSpan InitialDelay { get; init; } = TimeSpan.FromMilliseconds(100);

    /// <summary>Longest wait before a restart.</summary>
    public TimeSpan MaxDelay { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>Restarts within <see cref="Window"/>; one more failure opens the breaker.</summary>
    public int MaxRestarts { get; init; } = 5;

    /// <summary>How long a failure counts.</summary>
    public TimeSpan Window { get; init; } = TimeSpan.FromMinutes(1);

    /// <summary>How long calls fail at once after the breaker opened; then the next call tries again.</summary>
    public TimeSpan BreakDuration { get; init; } = TimeSpan.FromSeconds(30);
}

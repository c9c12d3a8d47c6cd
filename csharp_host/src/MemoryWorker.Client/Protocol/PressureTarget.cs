namespace MemoryWorker.Client.Protocol;

/// <summary>What pressure to come down to: a level's name, or a percentage above 0 and up to 100.</summary>
public readonly record struct PressureTarget
{
    /// <summary>The word, or null where a percentage was given.</summary>
    public PressureCategory? Category { get; private init; }

    /// <summary>The percentage, or null where a word was given.</summary>
    public double? Percentage { get; private init; }

    /// <summary>Aims for a word's range.</summary>
    public static implicit operator PressureTarget(PressureCategory category) => new() { Category = category };

    /// <summary>Aims for a percentage.</summary>
    public static implicit operator PressureTarget(double percentage) => new() { Percentage = percentage };
}

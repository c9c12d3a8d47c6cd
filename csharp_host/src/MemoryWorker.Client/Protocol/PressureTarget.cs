namespace MemoryWorker.Client.Protocol;

/// <summary>What pressure to come down to: a level's name, or a percentage above 0 and up to 100.</summary>
public readonly record struct PressureTarget
{
    /// <summary>The level, or null where a percentage was given.</summary>
    public PressureLevel? Level { get; private init; }

    /// <summary>The percentage, or null where a level was given.</summary>
    public double? Percentage { get; private init; }

    /// <summary>Aims for a level.</summary>
    public static implicit operator PressureTarget(PressureLevel level) => new() { Level = level };

    /// <summary>Aims for a percentage.</summary>
    public static implicit operator PressureTarget(double percentage) => new() { Percentage = percentage };
}

using System.Collections.ObjectModel;

namespace MemoryWorker.Client;

/// <summary>One line of the worker's stderr.</summary>
public sealed record WorkerLogEntry
{
    /// <summary>From a JSON line's <c>level</c>; a warning otherwise.</summary>
    public required WorkerLogLevel Level { get; init; }

    /// <summary>From a JSON line's <c>message</c>; the line itself otherwise.</summary>
    public required string Message { get; init; }

    /// <summary>The request that the line is about, as <see cref="WorkerException.RequestId"/> names it; null where it is about none.</summary>
    public string? RequestId { get; init; }

    /// <summary>The W3C trace context of the call that made the request; null where there was none.</summary>
    public string? TraceParent { get; init; }

    /// <summary>What else a JSON line says, by name: text as it is, anything else as JSON. Null values and the time are left out.</summary>
    public IReadOnlyDictionary<string, string> Fields { get; init; } = ReadOnlyDictionary<string, string>.Empty;

    /// <summary>The line as it came.</summary>
    public required string Line { get; init; }

    /// <summary>Whose line it is.</summary>
    public required int ProcessId { get; init; }
}

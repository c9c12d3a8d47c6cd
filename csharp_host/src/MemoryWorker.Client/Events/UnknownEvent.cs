using System.Text.Json;
using MemoryWorker.Client.Protocol;

namespace MemoryWorker.Client;

/// <summary>An event of a newer worker that this library does not know. Comes to readers of <see cref="EventName.Unknown"/>.</summary>
/// <param name="Sequence"><inheritdoc cref="WorkerEvent" path="/param[@name='Sequence']"/></param>
/// <param name="ProcessId">The worker that said it.</param>
/// <param name="Text">What it is called on the wire.</param>
/// <param name="Data">What it carries, as it came.</param>
public sealed record UnknownEvent(long Sequence, int ProcessId, string Text, JsonElement Data)
    : WorkerEvent(Sequence, ProcessId)
{
    /// <inheritdoc/>
    public override EventName Name => EventName.Unknown;
}

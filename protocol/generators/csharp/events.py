"""One C# type for each event, and what makes it of a line."""

from protocol.actions import EVENTS
from protocol.generators.csharp.text import file, first_line, pascal, summary
from protocol.vocabulary import EventName

NAMESPACE = "MemoryWorker.Client"


def events() -> str:
    """Return the file of all events that can be subscribed to."""
    kinds = {name: EVENTS[name].__name__.removesuffix("Data") for name in EventName}
    bodies = [_event(name, kind) for name, kind in kinds.items()]
    reader = [
        *summary("Makes an event of the line that tells of it.", 0, ""),
        "internal static class WorkerEventReader",
        "{",
        *summary("Reads an event. JsonException where its data is not what it should be.", 1, ""),
        "    public static WorkerEvent Read(string name, long sequence, int processId, ReadOnlySpan<byte> data)",
        "    {",
        "        var reader = new Utf8JsonReader(data);",
        "        reader.Read();",
        "        return name switch",
        "        {",
        *(
            f"            WireEvents.{kind} => new {kind}Event(sequence, processId, {kind}Data.Read(ref reader, strict: false)),"
            for kind in kinds.values()
        ),
        "            _ => new UnknownEvent(sequence, processId, name, JsonElement.ParseValue(ref reader)),",
        "        };",
        "    }",
        "}",
    ]
    return file("System.Text.Json MemoryWorker.Client.Protocol", *bodies, reader, namespace=NAMESPACE)


def _event(name: EventName, kind: str) -> list[str]:
    return [
        *summary(first_line(EVENTS[name]), 0, f"``{name}``"),
        f"public sealed record {kind}Event(long Sequence, int ProcessId, {kind}Data Data)",
        "    : WorkerEvent(Sequence, ProcessId)",
        "{",
        "    /// <inheritdoc/>",
        f"    public override EventName Name => EventName.{pascal(name)};",
        "}",
    ]

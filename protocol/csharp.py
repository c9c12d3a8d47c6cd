"""The contract in C#: records with their own JSON readers and writers, enums, and the action table.

No reflection and no source generator is needed at run time, so the client can be trimmed and compiled
ahead of time. The hand-written half lies beside it in csharp_host/src/MemoryWorker.Client/Protocol/.
"""

from protocol import envelope, vocabulary
from protocol.actions import ACTIONS, EVENTS
from protocol.csharp_model import Record, Words, contract
from protocol.csharp_record import record
from protocol.csharp_text import INDENT, file, pascal, quoted, summary

FOLDER = "csharp_host/src/MemoryWorker.Client/Generated"
JSON_USINGS = "System.Diagnostics.CodeAnalysis System.Text.Json"


def generate() -> dict[str, str]:
    """Return every C# file by its path from the repository's root. The same contract gives the same text."""
    records, enums = contract()
    roots = {
        "Params": {action.params.__name__ for action in ACTIONS.values()},
        "Results": {action.result.__name__ for action in ACTIONS.values()},
        "Events": {kind.__name__ for kind in EVENTS.values()},
    }
    named = set().union(*roots.values())
    roots["Lines"] = {one.root for one in records.values()} - named
    files = {
        group: _records([one for one in records.values() if one.root in members], set(enums))
        for group, members in roots.items()
    }
    files |= {"Words": _words(enums), "Actions": _actions(), "Constants": _constants()}
    return {f"{FOLDER}/{name}.g.cs": text for name, text in files.items()}


def _records(group: list[Record], enums: set[str]) -> str:
    return file(JSON_USINGS, *(record(one, enums) for one in group))


def _words(enums: dict[str, Words]) -> str:
    """Return the enums, and one class that maps their words both ways."""
    declared = [_enum(one) for one in enums.values()]
    mapped = [
        *summary("The words that the enums are on the wire.", 0, ""),
        "public static class WireWords",
        "{",
    ]
    for one in enums.values():
        mapped += [*(INDENT + line if line else "" for line in _mapping(one)), ""]
    mapped[-1] = "}"
    return file("System.Text.Json", *declared, mapped)


def _enum(one: Words) -> list[str]:
    lines = [*summary(one.text, 0, f"``{one.name}``"), f"public enum {one.name}", "{"]
    for word in one.words:
        lines += [*summary("", 1, f"``{word}``"), f"{INDENT}{pascal(word)},", ""]
    lines[-1] = "}"
    return lines


def _mapping(one: Words) -> list[str]:
    name, words = one.name, one.words
    known = ", ".join(words)
    return [
        f'/// <summary>The word of a <see cref="{name}"/>.</summary>',
        f"public static string ToWord(this {name} value) => value switch",
        "{",
        *(f"    {name}.{pascal(word)} => {quoted(word)}," for word in words),
        "    _ => throw new ArgumentOutOfRangeException(nameof(value), value, null),",
        "};",
        "",
        f'/// <summary>Finds the <see cref="{name}"/> of a word; false where there is none.</summary>',
        f"public static bool TryParse(string? word, out {name} value)",
        "{",
        f"    ({name} found, bool known) = word switch",
        "    {",
        *(f"        {quoted(word)} => ({name}.{pascal(word)}, true)," for word in words),
        "        _ => (default, false),",
        "    };",
        "    value = found;",
        "    return known;",
        "}",
        "",
        f"internal static {name} Read{name}(ref Utf8JsonReader reader, string member)",
        "{",
        "    WireReader.ExpectWord(ref reader, member);",
        *(
            line
            for word in words
            for line in (
                f'    if (reader.ValueTextEquals("{word}"u8))',
                "    {",
                f"        return {name}.{pascal(word)};",
                "    }",
            )
        ),
        f"    throw WireReader.UnknownWord(ref reader, member, {quoted(known)});",
        "}",
    ]


def _actions() -> str:
    """Return the names as constants, and the table that binds them to their types."""
    prefixes = dict.fromkeys(name.partition(".")[0] for name in ACTIONS)
    bodies = []
    for prefix in prefixes:
        body = [
            *summary(f"Names of the actions ``{prefix}.*``.", 0, ""),
            f"public static class {pascal(prefix)}Actions",
            "{",
        ]
        for name, action in ACTIONS.items():
            if name.startswith(f"{prefix}."):
                body += [
                    *summary(_first_line(action.params), 1, name),
                    f"{INDENT}public const string {_short(name)} = {quoted(name)};",
                    "",
                ]
        body[-1] = "}"
        bodies.append(body)
    table = [
        *summary("The contract's table: what each action takes and what it answers.", 0, ""),
        "public static class WireActions",
        "{",
    ]
    for name, action in ACTIONS.items():
        takes, answers = action.params.__name__, action.result.__name__
        constant = f"{pascal(name.partition('.')[0])}Actions.{_short(name)}"
        table += [
            f"    /// <summary><c>{name}</c>.</summary>",
            f"    public static WireAction<{takes}, {answers}> {_row(name)} {{ get; }} =",
            f"        new({constant}, Changes: {_bool(action.changes)}, IsControl: {_bool(action.control)});",
            "",
        ]
    table += [
        "    /// <summary>Every row, in the contract's order.</summary>",
        "    public static IReadOnlyList<WireAction> All { get; } =",
        "    [",
        *(f"        {_row(name)}," for name in ACTIONS),
        "    ];",
        "",
        "    /// <summary>Finds an action by its name; null where the contract has none.</summary>",
        "    public static WireAction? Find(string name) => name switch",
        "    {",
        *(f"        {quoted(name)} => {_row(name)}," for name in ACTIONS),
        "        _ => null,",
        "    };",
        "}",
    ]
    return file("", *bodies, table)


def _constants() -> str:
    numbers = {
        "ProtocolVersion": ("The version of the contract.", vocabulary.PROTOCOL_VERSION),
        "DefaultMaxFrameBytes": (
            "The longest line, unless the worker is told otherwise.",
            vocabulary.DEFAULT_MAX_FRAME_BYTES,
        ),
        "DefaultMaxInflight": (
            "Requests at once, unless the worker is told otherwise.",
            vocabulary.DEFAULT_MAX_INFLIGHT,
        ),
        "RequestIdMaxLength": ("In characters.", envelope.REQUEST_ID_MAX),
    }
    facts = [*summary("Figures that both sides agree on.", 0, ""), "public static class WireContract", "{"]
    for name, (text, number) in numbers.items():
        facts += [*summary(text, 1, ""), f"    public const int {name} = {number};", ""]
    facts[-1] = "}"
    body = [
        *summary("Names of the events, as they stand on an event line.", 0, ""),
        "public static class WireEvents",
        "{",
    ]
    for name, kind in EVENTS.items():
        body += [
            f'    /// <summary>Its data is a <see cref="{kind.__name__}"/>.</summary>',
            f"    public const string {kind.__name__.removesuffix('Data')} = {quoted(str(name))};",
            "",
        ]
    body[-1] = "}"
    return file("", facts, body)


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]


def _short(name: str) -> str:
    return pascal(name.partition(".")[2])


def _row(name: str) -> str:
    """Name the table's row: without the prefix for ``memory.*``, which is what the table is about."""
    return _short(name) if name.startswith("memory.") else pascal(name)


def _bool(value: bool) -> str:  # noqa: FBT001  that is what it writes
    return "true" if value else "false"

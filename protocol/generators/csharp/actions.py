"""The action table in C#, and the names and figures that both sides agree on."""

from protocol import envelope, vocabulary
from protocol.actions import ACTIONS, EVENTS
from protocol.generators.csharp.text import INDENT, file, first_line, pascal, quoted, summary
from protocol.vocabulary import EventName


def actions() -> str:
    """Return the names as constants, and the table that binds them to their types."""
    prefixes = dict.fromkeys(name.partition(".")[0] for name in ACTIONS)
    return file("", *map(_names, prefixes), _table())


def _names(prefix: str) -> list[str]:
    body = [
        *summary(f"Names of the actions ``{prefix}.*``.", 0, ""),
        f"public static class {pascal(prefix)}Actions",
        "{",
    ]
    for name, action in ACTIONS.items():
        if name.startswith(f"{prefix}."):
            body += [
                *summary(first_line(action.params), 1, name),
                f"{INDENT}public const string {_short(name)} = {quoted(name)};",
                "",
            ]
    body[-1] = "}"
    return body


def _table() -> list[str]:
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
            f"        new({constant}, Changes: {_literal(value=action.changes)}, IsControl: {_literal(value=action.control)});",
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
    return table


def constants() -> str:
    """Return the figures and the names of the events."""
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
        "FiguresEveryMs": (
            "How often figures come, unless the subscription says otherwise.",
            vocabulary.FIGURES_EVERY_MS,
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
    body += [
        "    /// <summary>Every event that this library knows and a host can subscribe to.</summary>",
        "    public static IReadOnlyList<EventName> All { get; } =",
        "    [",
        *(f"        EventName.{pascal(name)}," for name in EventName),
        "    ];",
        "}",
    ]
    return file("", facts, body)


def _short(name: str) -> str:
    return pascal(name.partition(".")[2])


def _row(name: str) -> str:
    """Name the table's row: without the prefix for ``memory.*``, which is what the table is about."""
    return _short(name) if name.startswith("memory.") else pascal(name)


def _literal(*, value: bool) -> str:
    return "true" if value else "false"

"""The contract's enums, and one class that maps their words both ways."""

from protocol.generators.csharp.text import INDENT, file, pascal, quoted, summary
from protocol.generators.model import Words

UNKNOWN = "unknown"


def words(enums: dict[str, Words]) -> str:
    """Return the file of all enums."""
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
    """Declare the members; the first, which a later word never moves, stands for a newer worker's words."""
    also = f"``{UNKNOWN}``, or a" if UNKNOWN in one.words else "A"
    lines = [
        *summary(one.text, 0, f"``{one.name}``"),
        f"public enum {one.name}",
        "{",
        *summary(f"{also} word that this library does not know: ``UnknownWords`` has its text.", 1, ""),
        f"{INDENT}Unknown,",
        "",
    ]
    for word in _others(one):
        lines += [*summary("", 1, f"``{word}``"), f"{INDENT}{pascal(word)},", ""]
    lines[-1] = "}"
    return lines


def _others(one: Words) -> list[str]:
    return [word for word in one.words if word != UNKNOWN]


def _mapping(one: Words) -> list[str]:
    name, known = one.name, ", ".join(one.words)
    nothing = f'nameof(value), value, "it is none of {known}"'
    return [
        f'/// <summary>The word of a <see cref="{name}"/>.</summary>',
        '/// <exception cref="ArgumentOutOfRangeException">There is no word for it.</exception>',
        f"public static string ToWord(this {name} value) => value switch",
        "{",
        *(f"    {name}.{pascal(word)} => {quoted(word)}," for word in one.words),
        f"    _ => throw new ArgumentOutOfRangeException({nothing}),",
        "};",
        "",
        f'/// <summary>Finds the <see cref="{name}"/> of a word; false where there is none.</summary>',
        f"public static bool TryParse(string? word, out {name} value)",
        "{",
        f"    ({name} found, bool known) = word switch",
        "    {",
        *(f"        {quoted(word)} => ({name}.{pascal(word)}, true)," for word in one.words),
        f"        _ => ({name}.Unknown, false),",
        "    };",
        "    value = found;",
        "    return known;",
        "}",
        "",
        f"internal static {name} Read{name}(",
        "    ref Utf8JsonReader reader, string member, bool strict, ref Dictionary<string, string>? unknown)",
        "{",
        "    WireReader.ExpectWord(ref reader, member);",
        *(
            line
            for word in one.words
            for line in (
                f'    if (reader.ValueTextEquals("{word}"u8))',
                "    {",
                f"        return {name}.{pascal(word)};",
                "    }",
            )
        ),
        f"    WireReader.UnknownWord(ref reader, member, strict, ref unknown, {quoted(known)});",
        f"    return {name}.Unknown;",
        "}",
    ]

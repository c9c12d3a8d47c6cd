"""One record of the contract as a C# record with its own reader and writer.

A required member is a `required` property. An optional one remembers whether it was assigned: what was
assigned is written, also null, because the contract tells "left out" from null.

A reader that is not strict takes what another version says: an unknown word as `Unknown`, its text in
`UnknownWords`; a member that is missing as null, where it can be null or came after the record was first released.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from protocol.generators.csharp.text import INDENT, pascal, quoted, summary
from protocol.generators.model import Field, Record, Schema, is_any, resolve
from protocol.vocabulary import INT64_MAX

RENAMED = {("Event", "event"): "Name"}
"""A C# member cannot have its type's name."""

CHECKS = {
    "AllocateParams": (
        "Alignment is { } alignment && (alignment & (alignment - 1)) != 0",
        "alignment: it is not a power of two",
    ),
    "Thresholds": (
        "!(Moderate < High && High < Critical)",
        "Thresholds: moderate < high < critical does not hold",
    ),
}
"""The rules that neither a JSON Schema nor a choice states: when to refuse, and why."""

NOT_YET = "Null from a worker that does not send it yet."
UNKNOWN_WORDS = [
    "/// <summary>Text of each word that this library does not know, by its member; null where there is none.</summary>",
    "[JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]",
    "public IReadOnlyDictionary<string, string>? UnknownWords { get; init; }",
]

_SCALARS = {"integer": ("long", "Int64"), "number": ("double", "Double"), "string": ("string", "String")}
_BOUNDS = {
    "minimum": "minimum",
    "maximum": "maximum",
    "exclusiveMinimum": "above",
    "minLength": "minimum",
    "maxLength": "maximum",
    "minItems": "minimum",
    "maxItems": "maximum",
}


@dataclass(frozen=True)
class Value:
    """How C# holds, reads and writes one kind of value."""

    kind: str
    """The C# type, without a question mark."""
    read: str
    """An expression, the reader standing on the value."""
    write: str
    """The same for writing; {0} is the property."""
    is_word: bool = False
    """Whether it is of an enum, or a list of such."""


def record(one: Record, enums: set[str]) -> list[str]:
    """Return the lines of one record."""
    fields = [(field, _name(one, field), _value(field.schema, field.name, enums)) for field in one.fields]
    optional = [field.name for field in one.fields if not field.required]
    has_words = any(value.is_word for _, _, value in fields)
    lines = [
        *summary(one.text or f"The data of ``{one.name}``.", 0, ""),
        *(
            ["/// <remarks>An optional member that is assigned is written, also null.</remarks>"]
            if optional
            else []
        ),
        f"public sealed record {one.name} : IWireRecord<{one.name}>",
        "{",
    ]
    if optional:
        lines += [INDENT + "private readonly ulong _assigned;", ""]
    for field, name, value in fields:
        lines += [*_property(field, name, value, enums, optional), ""]
    if has_words:
        lines += [*(INDENT + line for line in UNKNOWN_WORDS), ""]
    lines += [
        *summary("Makes one; what is required is assigned in the initializer.", 1, ""),
        f"{INDENT}public {one.name}() {{ }}",
        "",
        *(INDENT + line for line in _constructor(one, fields, has_words=has_words)),
        "",
        INDENT + "/// <inheritdoc/>",
        f"{INDENT}public static {one.name} Read(ref Utf8JsonReader reader, bool strict) =>",
        f"{INDENT}    new(ref reader, strict);",
        "",
        *(INDENT + line for line in _writer(fields, optional)),
        "}",
    ]
    return lines


def _name(one: Record, field: Field) -> str:
    return RENAMED.get((one.name, field.name), pascal(field.name))


def _value(schema: Schema, member: str, enums: set[str]) -> Value:
    """Map a schema. ValueError where the contract uses something that C# has no type for here."""
    told = f"ref reader, {quoted(member)}"
    write = "WireWriter.Value(writer, {0})"
    match schema:
        case {"$ref": _} if (name := pascal(str(resolve(schema)))) in enums:
            # A property that has its type's name, and may be null, hides the type.
            kind = f"Protocol.{name}" if pascal(member) == name else name
            return Value(
                name,
                f"WireWords.Read{name}({told}, strict, ref unknown)",
                f"WireWriter.Value(writer, WireWriter.Kept({{0}} == {kind}.Unknown, UnknownWords, {quoted(member)})"
                " ?? this.{0}.ToWord())",
                is_word=True,
            )
        case {"$ref": _}:
            kind = str(resolve(schema))
            read = f"Record<{kind}>({told}, strict)"
        case {"anyOf": [{"$ref": "#/$defs/PressureLevel"}, {"type": "number"} as percentage]}:
            kind, read = "PressureTarget", f"PressureTarget({told}, strict{_bounds(percentage)})"
        case {"type": "boolean", "const": only}:
            kind, read = "bool", f"Constant({told}, {_literal(only)})"
        case {"type": "boolean"}:
            kind, read = "bool", f"Boolean({told})"
        case {"type": "object"}:
            kind, read = "JsonElement", f"Object({told})"
        case _ if is_any(schema):
            kind, read = "JsonElement", "Any(ref reader)"
        case {"type": "integer" | "number" | "string" as scalar}:
            kind, reader = _SCALARS[scalar]
            read = f"{reader}({told}, strict{_bounds(schema)})"
        case {"type": "array"}:
            return _list(schema, told, enums)
        case _:
            message = f"{member}: no C# type is known for {schema}"
            raise ValueError(message)
    return Value(kind, f"WireReader.{read}", write)


def _list(schema: Schema, told: str, enums: set[str]) -> Value:
    item = _value(schema["items"], "", enums)
    if item.is_word:
        return Value(
            f"IReadOnlyList<{item.kind}>",
            f"WireReader.Words({told}, strict, ref unknown, WireWords.Read{item.kind}{_bounds(schema)})",
            f"WireWriter.Words(writer, {{0}}, UnknownWords, {told.partition(', ')[2]}, WireWords.ToWord)",
            is_word=True,
        )
    given = "static (ref Utf8JsonReader reader, string member, bool strict)"
    read = item.read.replace(quoted(""), "member")
    write = item.write.format("item")
    return Value(
        f"IReadOnlyList<{item.kind}>",
        f"WireReader.List({told}, strict, {given} => {read}{_bounds(schema)})",
        f"WireWriter.List(writer, {{0}}, static (writer, item) => {write})",
    )


def _bounds(schema: Schema) -> str:
    """Return the named arguments for what a schema allows."""
    stated = ((argument, schema[key]) for key, argument in _BOUNDS.items() if key in schema)
    found = "".join(f", {argument}: {bound}" for argument, bound in stated if bound != INT64_MAX)
    if "pattern" in schema:  # C#'s $ also matches before a last line feed
        pattern = re.sub(r"\$$", r"\\z", schema["pattern"])
        found += f", pattern: {quoted(pattern)}"
    return found


def _literal(default: object) -> str:
    match default:
        case bool():
            return "true" if default else "false"
        case str():
            return quoted(default)
        case []:
            return "[]"
        case int() | float():
            return repr(default)
        case _:
            message = f"no C# literal is known for {default!r}"
            raise ValueError(message)


def _default(field: Field, value: Value, enums: set[str]) -> str:
    if field.nullable:
        return ""
    if value.kind == "JsonElement":
        return " = WireReader.EmptyObject"
    if value.kind in enums:
        return f" = {value.kind}.{pascal(field.default)}"
    return f" = {_literal(field.default)}"


def _property(field: Field, name: str, value: Value, enums: set[str], optional: list[str]) -> list[str]:
    kind = value.kind + ("?" if _may_be_null(field) else "")
    about = summary(field.text, 1, f"``{field.name}``")
    if field.required and field.added:
        about = summary(f"{field.text or f'``{field.name}``'} {NOT_YET}", 1, "")
        return [*about, f"{INDENT}public {kind} {name} {{ get; init; }}"]
    if field.required and "const" in field.schema:
        return [*about, f"{INDENT}public {kind} {name} => {_literal(field.schema['const'])};"]
    if field.required:
        return [*about, f"{INDENT}public required {kind} {name} {{ get; init; }}"]
    backing = "_" + name[0].lower() + name[1:]
    assigned = f"{backing} = value; _assigned |= {_bit(field.name, optional)};"
    return [
        f"{INDENT}private readonly {kind} {backing}{_default(field, value, enums)};",
        "",
        *about,
        f"{INDENT}public {kind} {name} {{ get => {backing}; init {{ {assigned} }} }}",
    ]


def _may_be_null(field: Field) -> bool:
    return field.nullable or (field.required and field.added)


def _bit(member: str, members: list[str]) -> str:
    return _bits([member], members)


def _bits(some: Iterable[str], members: list[str]) -> str:
    return f"{sum(1 << members.index(each) for each in some):#x}"


def _constructor(one: Record, fields: list[tuple[Field, str, Value]], *, has_words: bool) -> Iterator[str]:
    """Read in any order, remember what was there, then ask whether it was enough."""
    required = [field.name for field in one.fields if field.required]
    yield "#pragma warning disable CS8618 // Require, below, sees to the required members."
    yield "[SetsRequiredMembers]"
    yield f"private {one.name}(ref Utf8JsonReader reader, bool strict)"
    yield "#pragma warning restore CS8618"
    yield "{"
    if required:
        yield "    var seen = 0UL;"
    if has_words:
        yield "    Dictionary<string, string>? unknown = null;"
    yield f"    WireReader.Begin(ref reader, {quoted(one.name)});"
    yield "    while (WireReader.Next(ref reader))"
    yield "    {"
    for index, (field, name, value) in enumerate(fields):
        yield f'        {"else " if index else ""}if (WireReader.IsAt(ref reader, "{field.name}"u8))'
        yield "        {"
        tolerant = "" if field.nullable else "!strict && "
        null = f"{tolerant}WireReader.IsNull(ref reader) ? null : " if _may_be_null(field) else ""
        target = "_" if field.required and "const" in field.schema else name
        yield f"            {target} = {null}{value.read};"
        if field.required:
            yield f"            seen |= {_bit(field.name, required)};"
        yield "        }"
    refuse = "strict" if one.closed else "false"
    unknown = f"WireReader.Unknown(ref reader, {quoted(one.name)}, refuse: {refuse});"
    if fields:
        yield "        else"
        yield "        {"
        yield f"            {unknown}"
        yield "        }"
    else:
        yield f"        {unknown}"
    yield "    }"
    if required:
        yield f"    if (seen != {2 ** len(required) - 1:#x})"
        yield "    {"
        names = ", ".join(map(quoted, required))
        spared = sum(
            1 << required.index(field.name)
            for field, _, _ in fields
            if field.required and _may_be_null(field)
        )
        told = f"strict ? seen : seen | {spared:#x}" if spared else "seen"
        yield f"        WireReader.Require({told}, {quoted(one.name)}, {names});"
        yield "    }"
    if has_words:
        yield "    UnknownWords = unknown;"
    yield from _check(one)
    yield "}"


def _check(one: Record) -> Iterator[str]:
    """Refuse what breaks a rule that no member breaks by itself."""
    if one.name in CHECKS:
        refused, why = CHECKS[one.name]
        yield from _refuse(f"strict && {refused}", why)
    if one.choices:
        yield from _choices(one)


def _choices(one: Record) -> Iterator[str]:
    """Compare the bits of what is given, null left out, with those of each way."""
    optional = [field.name for field in one.fields if not field.required]
    names = {name for choice in one.choices for name in choice.names}
    nulls = [
        f"({_name(one, field)} is null ? {_bit(field.name, optional)}UL : 0)"
        for field in one.fields
        if field.name in names and field.nullable
    ]
    yield f"    var given = _assigned & ~({' | '.join(nulls)});"
    for choice in one.choices:
        unlike = " && ".join(
            f"(given & {_bits({*choice.names} - {*way.beside}, optional)}) != {_bits(way.needed, optional)}"
            for way in choice.ways
        )
        yield from _refuse(f"strict && {unlike}", f"{one.name}: {choice.message}")


def _refuse(condition: str, why: str) -> Iterator[str]:
    yield f"    if ({condition})"
    yield "    {"
    yield f"        throw new JsonException({quoted(why)});"
    yield "    }"


def _writer(fields: list[tuple[Field, str, Value]], optional: list[str]) -> Iterator[str]:
    yield "/// <inheritdoc/>"
    yield "public void Write(Utf8JsonWriter writer)"
    yield "{"
    yield "    writer.WriteStartObject();"
    for field, name, value in fields:
        write = value.write.format(name)
        if _may_be_null(field):
            write = write.replace(f"this.{name}.ToWord()", f"this.{name}?.ToWord()")
        always = field.required and (field.nullable or not field.added)
        if always:
            yield f'    writer.WritePropertyName("{field.name}"u8);'
            yield f"    {write};"
        else:
            given = (
                f"{name} is not null"
                if field.required
                else f"(_assigned & {_bit(field.name, optional)}) != 0"
            )
            yield f"    if ({given})"
            yield "    {"
            yield f'        writer.WritePropertyName("{field.name}"u8);'
            yield f"        {write};"
            yield "    }"
    yield "    writer.WriteEndObject();"
    yield "}"

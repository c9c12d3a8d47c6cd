"""What a generator knows of the contract: its types as the JSON Schemas state them, in order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from protocol import growth
from protocol.actions import ACTIONS, EVENTS
from protocol.contract import contract_types, json_schema
from protocol.params import Choice, Choosing

Schema = dict[str, Any]


@dataclass(frozen=True)
class Field:
    """One member of a record."""

    name: str
    schema: Schema
    """Of its value, null left out."""
    nullable: bool
    required: bool
    default: Any
    text: str
    added: bool
    """It came after the record was first released: an older worker does not send it."""


@dataclass(frozen=True)
class Record:
    """One object type."""

    name: str
    text: str
    closed: bool
    """Unknown members are refused."""
    fields: tuple[Field, ...]
    root: str
    """The first type that crosses the wire on its own and holds this one."""
    choices: tuple[Choice, ...]
    """Which of its fields go together."""


@dataclass(frozen=True)
class Words:
    """One closed set of words."""

    name: str
    text: str
    words: tuple[str, ...]


def contract() -> tuple[dict[str, Record], dict[str, Words]]:
    """Return every record and enum of the contract by name, a type after the first one that uses it."""
    records: dict[str, Record] = {}
    enums: dict[str, Words] = {}
    origins: dict[str, Schema] = {}
    for root in contract_types():
        schema = json_schema(root)
        definitions: dict[str, Schema] = schema.pop("$defs", {})
        for name in _in_use({**definitions, root: schema}, root):
            definition = schema if name == root else definitions[name]
            facts = {key: value for key, value in definition.items() if not key.startswith("$")}
            if origins.setdefault(name, facts) != facts:
                message = f"{name} means one thing in {root} and another elsewhere"
                raise ValueError(message)
            if "enum" in facts:
                enums[name] = Words(name, facts.get("description", ""), tuple(facts["enum"]))
            else:
                records.setdefault(name, _record(name, facts, root))
    return records, enums


def choices() -> dict[str, tuple[Choice, ...]]:
    """Return which fields go together, of every record where some do."""
    return {kind.__name__: kind.choices for kind in Choosing.__subclasses__()}


def shape() -> growth.Shape:
    """Return what hosts and workers rely on, in the form of the baseline."""
    records, enums = contract()
    roots = {action.params.__name__ for action in ACTIONS.values()} | {"Request"}
    requests = {name: one for name, one in records.items() if one.root in roots}
    return {
        "actions": {name: [row.params.__name__, row.result.__name__] for name, row in ACTIONS.items()},
        "events": {str(name): kind.__name__ for name, kind in EVENTS.items()},
        "requests": {
            name: {field.name: growth.REQUIRED * field.required + _promise(field) for field in one.fields}
            for name, one in requests.items()
        },
        "answers": {
            name: {field.name: _promise(field) for field in one.fields}
            for name, one in records.items()
            if name not in requests
        },
        "enums": {name: list(one.words) for name, one in enums.items()},
    }


def _promise(field: Field) -> str:
    return _kind(field.schema) + growth.OR_NULL * field.nullable


def is_any(schema: Schema) -> bool:
    """Tell whether a schema takes every value, null among them."""
    return not {"type", "anyOf", "$ref"} & schema.keys()


def _kind(schema: Schema) -> str:
    if name := resolve(schema):
        return name
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    return str(schema.get("type", "any"))


def resolve(schema: Schema) -> str | None:
    """Return the name of the type that a value refers to."""
    reference = schema.get("$ref")
    return None if reference is None else str(reference).rpartition("/")[2]


def _in_use(schemas: dict[str, Schema], root: str) -> list[str]:
    """Name the types below a root in the order in which their fields mention them."""
    found: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in found:
            found[name] = None
            for one in _references(schemas[name]):
                visit(one)

    visit(root)
    return list(found)


def _references(schema: object) -> Iterator[str]:
    match schema:
        case dict():
            if name := resolve(schema):
                yield name
            for value in schema.values():
                yield from _references(value)
        case list():
            for value in schema:
                yield from _references(value)


def _record(name: str, schema: Schema, root: str) -> Record:
    required = schema.get("required", ())
    stated: dict[str, Schema] = schema.get("properties", {})
    return Record(
        name=name,
        text=schema.get("description", ""),
        closed=schema.get("additionalProperties") is False,
        fields=tuple(_field(name, field, one, required=field in required) for field, one in stated.items()),
        root=root,
        choices=choices().get(name, ()),
    )


def _field(record: str, name: str, stated: Schema, *, required: bool) -> Field:
    choices: list[Schema] = stated.get("anyOf", [stated])
    values = [one for one in choices if one.get("type") != "null"]
    value = values[0] if len(values) == 1 else {"anyOf": values}
    return Field(
        name=name,
        schema=value,
        nullable=len(values) < len(choices) or is_any(value),
        required=required,
        default=stated.get("default"),
        text=stated.get("description", ""),
        added=growth.is_added(record, name),
    )

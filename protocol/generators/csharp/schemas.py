"""What each action's data may be, as the in-memory worker of MemoryWorker.Testing checks it."""

import json
from typing import Any

from protocol.actions import ACTIONS
from protocol.contract import json_schema
from protocol.generators.csharp.text import INDENT, file, summary
from protocol.generators.model import choices, resolve

_LEFT_OUT = {
    "$defs",
    "$id",
    "$schema",
    "additionalProperties",
    "allOf",
    "default",
    "description",
    "oneOf",
    "title",
}
"""What is said for people, and which fields go together: ``choices`` says that with the worker's words for it."""


def schemas() -> str:
    """Return the file of the schemas, short, and with what they refer to in place."""
    body = [
        *summary("What each action's data may be, as JSON Schema.", 0, ""),
        "internal static class RequestSchemas",
        "{",
        *summary("The schema of an action of the contract; null for any other action.", 1, ""),
        f"{INDENT}public static string? Of(string action) => action switch",
        f"{INDENT}{{",
        *(
            f'{INDENT * 2}"{name}" => """{_compact(action.params.__name__)}""",'
            for name, action in ACTIONS.items()
        ),
        f"{INDENT * 2}_ => null,",
        f"{INDENT}}};",
        "}",
    ]
    return file("", body, namespace="MemoryWorker.Testing")


def _compact(name: str) -> str:
    schema = json_schema(name)
    return json.dumps(_plain(schema, name, schema.get("$defs", {})), separators=(",", ":"))


def _plain(part: Any, name: str | None, defs: dict[str, Any]) -> Any:
    """Return a part of a schema; it is a record's where that has a name."""
    if isinstance(part, list):
        return [_plain(each, None, defs) for each in part]
    if not isinstance(part, dict):
        return part
    if referred := resolve(part):
        return _plain(defs[referred], referred, defs)
    named = part.get("properties", {})
    kept = {
        key: _plain(value, None, defs) for key, value in part.items() if key not in _LEFT_OUT | {"properties"}
    }
    if named:
        kept["properties"] = {key: _plain(value, None, defs) for key, value in named.items()}
    if stated := choices().get(name or ""):
        kept["choices"] = [
            {
                "message": choice.message,
                "names": choice.names,
                "ways": [{"needed": way.needed, "beside": way.beside} for way in choice.ways],
            }
            for choice in stated
        ]
    return kept

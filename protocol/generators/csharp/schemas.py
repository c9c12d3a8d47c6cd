"""What each action's data may be, as the in-memory worker of MemoryWorker.Testing checks it."""

import json
from typing import Any

from protocol.actions import ACTIONS
from protocol.contract import json_schema
from protocol.generators.csharp.text import INDENT, file, summary

_SAID_FOR_PEOPLE = {
    "$defs",
    "$id",
    "$schema",
    "additionalProperties",
    "default",
    "description",
    "oneOf",
    "title",
}


def schemas() -> str:
    """Return the file of the schemas, without what is said for people and with what they refer to in place."""
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
    return json.dumps(_plain(schema, schema.get("$defs", {})), separators=(",", ":"))


def _plain(part: Any, defs: dict[str, Any]) -> Any:
    if isinstance(part, list):
        return [_plain(each, defs) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _plain(defs[part["$ref"].rpartition("/")[2]], defs)
    named = part.get("properties", {})
    kept = {
        key: _plain(value, defs)
        for key, value in part.items()
        if key not in _SAID_FOR_PEOPLE | {"properties"}
    }
    return kept | (
        {"properties": {key: _plain(value, defs) for key, value in named.items()}} if named else {}
    )

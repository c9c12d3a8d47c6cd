"""The generated C# readers and writers, called from Python."""

import json
from functools import cache
from types import ModuleType
from typing import Any

from protocol.contract import json_schema


@cache
def published(name: str) -> dict[str, Any]:
    """Return a type's JSON Schema, made once."""
    return json_schema(name)


def round_trip(protocol: ModuleType, name: str, text: str, *, strict: bool = True) -> Any:
    """Read ``text`` as a type of the contract and return what C# writes for it. Raises C#'s JsonException."""
    kind = getattr(protocol, name)
    value = protocol.WireJson.Read[kind](text, strict)
    return json.loads(protocol.WireJson.ToText[kind](value))


def same(left: Any, right: Any) -> bool:
    """Compare two JSON values: true is not 1, but 1 is 1.0."""
    match left, right:
        case dict(), dict():
            return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
        case list(), list():
            return len(left) == len(right) and all(map(same, left, right))
        case _:
            return isinstance(left, bool) is isinstance(right, bool) and left == right


def known_part(name: str, value: Any) -> Any:
    """Leave out the members that an open type ignores: C# does not keep them."""
    schema = published(name)
    return _known(value, schema, schema.get("$defs", {}))


def _known(value: Any, schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    if "$ref" in schema:
        return _known(value, definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        for one in schema["anyOf"]:
            value = _known(value, one, definitions)
        return value
    members = schema.get("properties")
    if isinstance(value, dict) and members is not None:
        return {key: _known(one, members[key], definitions) for key, one in value.items() if key in members}
    if isinstance(value, list) and "items" in schema:
        return [_known(one, schema["items"], definitions) for one in value]
    return value

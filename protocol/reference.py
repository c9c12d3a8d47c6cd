"""The reference page of the protocol, docs/protocol.md, out of the same models as the schemas."""

import inspect
import json
from typing import Any

from protocol.actions import ACTIONS, EVENTS, OLDER_NAMES
from protocol.contract import json_schema
from protocol.error_codes import ERRORS
from protocol.vocabulary import PROTOCOL_VERSION

_HEAD = f"""\
# Protocol reference, version {PROTOCOL_VERSION}

Generated from `protocol/`; do not edit. One JSON object a line, UTF-8, LF. A field marked `?` may be left
out; every field of an answer is always present, `null` where it is unknown. Of a request that is refused the first
100 faults are named, and names are quoted up to 64 characters. An unknown
key in `data` refuses the request; one beside it, or in `meta`, is ignored, and the reply, of whichever kind, names it in
`ignored`: a list of `path` and `message`, there only then. How this may grow, and what a reader does with what it
does not know: [compatibility.md](compatibility.md).

```json
{{"request_id": "1", "action": "memory.get_status", "data": {{}}, "meta": {{"deadline_ms": 5000}}}}
{{"request_id": "1", "success": true, "data": {{}}}}
{{"request_id": "2", "action": "worker.ping", "deadline_ms": 5000}}
{{"request_id": "2", "success": true, "data": {{"uptime_ms": 9}}, "ignored": [{{"path": "deadline_ms", "message": "unknown key; did you mean meta.deadline_ms?"}}]}}
```
"""


def reference_page() -> str:
    """Return the page as Markdown."""
    parts = [_HEAD]
    for name, action in ACTIONS.items():
        notes = [note for note, holds in (("changes", action.changes), ("control", action.control)) if holds]
        parts.append(f"## `{name}`{f' ({notes[0]})' if notes else ''}\n\n{_summary(action.params)}\n")
        parts.append(_table("Takes", json_schema(action.params.__name__)))
        parts.append(_table("Answers", json_schema(action.result.__name__)))
    older = "\n".join(f"- `{old}` means `{new}`" for old, new in OLDER_NAMES.items())
    parts.append(f"## Older names\n\n{older}\n")
    for event, kind in EVENTS.items():
        parts.append(f"## Event `{event}`\n")
        parts.append(_table("Carries", json_schema(kind.__name__)))
    rows = "\n".join(
        f"| `{code}` | {rule.when} | {rule.executed} | {'yes' if rule.retryable else 'no'} |"
        for code, rule in ERRORS.items()
    )
    parts.append(f"## Errors\n\n| code | when | executed | retryable |\n|---|---|---|---|\n{rows}\n")
    return "\n".join(parts)


def _summary(kind: type[Any]) -> str:
    return (inspect.getdoc(kind) or "").splitlines()[0]


def _table(title: str, schema: dict[str, Any]) -> str:
    definitions: dict[str, Any] = schema.get("$defs", {})
    fields = list(_rows(schema, definitions, ""))
    if not fields:
        return f"{title} nothing.\n"
    return f"{title}\n\n| field | type | |\n|---|---|---|\n" + "\n".join(fields) + "\n"


def _rows(schema: dict[str, Any], definitions: dict[str, Any], prefix: str) -> list[str]:
    rows = []
    for name, field in schema.get("properties", {}).items():
        optional = "?" if "default" in field else ""
        text = field.get("description", "")
        if "default" in field and field["default"] not in (None, [], {}):
            text = f"default `{json.dumps(field['default'])}`. {text}".strip()
        rows.append(f"| `{prefix}{name}`{optional} | {_type(field, definitions)} | {text} |")
        inner, marker = _record_in(field, definitions)
        if inner is not None:
            rows.extend(_rows(inner, definitions, f"{prefix}{name}{marker}."))
    return rows


def _record_in(field: dict[str, Any], definitions: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Return the record that a field holds, and how its path is written."""
    for each in (field, *field.get("anyOf", ())):
        marker = "[]" if each.get("type") == "array" else ""
        target = each.get("items", {}) if marker else each
        found = definitions.get(target.get("$ref", "").rpartition("/")[2], {})
        if "properties" in found:
            return found, marker
    return None, ""


def _type(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(each, definitions) for each in field["anyOf"]))
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        words = definitions[name].get("enum")
        return ", ".join(f"`{word}`" for word in words) if words else name
    if "const" in field:
        return f"`{field['const']}`"
    if field.get("type") == "array":
        most = f", at most {field['maxItems']}" if "maxItems" in field else ""
        return f"list of {_type(field.get('items', {}), definitions)}{most}"
    return str(field.get("type", "any"))

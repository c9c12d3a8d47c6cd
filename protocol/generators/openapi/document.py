"""The OpenAPI document (3.1, so that the contract's schemas are taken as they are)."""

import copy
import inspect
from typing import Any

from protocol.actions import ACTIONS, EVENTS, Action
from protocol.contract import json_schema
from protocol.generators.openapi.host import PATHS, SCHEMAS
from protocol.vocabulary import PROTOCOL_VERSION

Json = dict[str, Any]
_PROBLEM = {
    "description": "Why not: a refusal of the worker's, or what could not be read.",
    "headers": {
        "Retry-After": {
            "description": "Seconds to wait before asking again, where that is known.",
            "schema": {"type": "integer", "minimum": 0},
        }
    },
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def document() -> Json:
    """Return the whole document."""
    schemas = _Schemas()
    paths: dict[str, Json] = {}
    for name, action in ACTIONS.items():
        if not action.control:
            path, method, operation = _operation(name, action, schemas)
            paths.setdefault(path, {})[method] = operation
    events = {name: schemas.reference(kind.__name__) for name, kind in EVENTS.items() if name != "progress"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "memory-worker",
            "version": str(PROTOCOL_VERSION),
            "description": "Where an AI application's memory is, in bytes, and making room before it runs out. "
            "An operation is an action of the protocol, by the same name and with the same fields.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths | _own_paths(events),
        "components": {
            "schemas": dict(sorted((schemas.found | SCHEMAS).items())),
            "responses": {"Problem": _PROBLEM},
        },
    }


def _operation(name: str, action: Action, schemas: "_Schemas") -> tuple[str, str, Json]:
    domain, _, verb = name.partition(".")
    operation = {
        "operationId": name,
        "tags": [domain],
        "summary": (inspect.getdoc(action.params) or name).splitlines()[0],
    }
    answers = {
        "responses": {
            "200": {
                "description": (inspect.getdoc(action.result) or name).splitlines()[0],
                "content": {"application/json": {"schema": schemas.reference(action.result.__name__)}},
            },
            "default": {"$ref": "#/components/responses/Problem"},
        }
    }
    if not verb.startswith("get_"):
        body = {"application/json": {"schema": schemas.reference(action.params.__name__)}}
        required = bool(json_schema(action.params.__name__).get("required"))
        taken = {"requestBody": {"required": required, "content": body}}
        return f"/api/{domain}/{verb}", "post", operation | taken | answers
    schema = schemas.definition(action.params.__name__)
    required = schema.get("required", [])
    path = f"/api/{domain}/{verb.removeprefix('get_')}" + "".join(f"/{{{one}}}" for one in required)
    parameters = [
        _parameter(field, told, in_path=field in required) for field, told in schema["properties"].items()
    ]
    return path, "get", operation | {"parameters": parameters} | answers


def _parameter(field: str, told: Json, *, in_path: bool = False) -> Json:
    return {
        "name": field,
        "in": "path" if in_path else "query",
        "required": in_path,
        **({"description": told["description"]} if "description" in told else {}),
        "schema": _said(told),
    }


def _said(schema: Json) -> Json:
    """Return what can be said in a query: null is said by leaving a parameter out."""
    kept = {key: value for key, value in schema.items() if key not in ("description", "title", "anyOf")}
    if kept.get("default", "") is None:
        del kept["default"]
    choices = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    return kept | choices[0] if len(choices) == 1 else kept | ({"anyOf": choices} if choices else {})


def _own_paths(events: Json) -> dict[str, Json]:
    """Return what the host offers beside the contract."""
    paths = copy.deepcopy(PATHS)
    stream = paths["/api/events"]["get"]
    stream["parameters"][0]["schema"]["items"]["enum"] = list(events)
    paced = "figures_every_ms"
    stream["parameters"].append(_parameter(paced, json_schema("SubscribeParams")["properties"][paced]))
    stream["responses"]["200"]["content"]["text/event-stream"]["x-events"] = events
    return paths


class _Schemas:
    """The contract's types as components: each definition once, by its name."""

    def __init__(self) -> None:
        self.found: dict[str, Json] = {}

    def reference(self, name: str) -> Json:
        """Add a type of the contract, and return a reference to it."""
        schema = self.definition(name)
        self._add(name, schema)
        return {"$ref": f"#/components/schemas/{name}"}

    def definition(self, name: str) -> Json:
        """Return a type itself, after what it refers to was added."""
        schema: Json = _moved(json_schema(name))
        for inner, definition in schema.pop("$defs", {}).items():
            self._add(inner, definition)
        return {key: value for key, value in schema.items() if key not in ("$schema", "$id")}

    def _add(self, name: str, schema: Json) -> None:
        if self.found.setdefault(name, schema) != schema:
            message = f"{name} is one type in a request and another in an answer: they need two names"
            raise ValueError(message)


def _moved(value: Any) -> Any:
    """Point every reference to the components."""
    if isinstance(value, dict):
        return {
            key: one.replace("#/$defs/", "#/components/schemas/") if key == "$ref" else _moved(one)
            for key, one in value.items()
        }
    return [_moved(one) for one in value] if isinstance(value, list) else value

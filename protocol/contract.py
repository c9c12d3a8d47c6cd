"""Validators and JSON Schemas for every type of the contract. Not imported by a running worker."""

import ast
import inspect
import pkgutil
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

from pydantic import TypeAdapter

from protocol import envelope, lines, params, results, store_params, store_results
from protocol.actions import ACTIONS, EVENTS


def contract_types() -> dict[str, type[Any]]:
    """Every type that crosses the wire on its own, by name, in the table's order."""
    found: dict[str, type[Any]] = {
        kind.__name__: kind for kind in (envelope.Request, lines.SuccessReply, lines.ErrorReply, lines.Event)
    }
    for action in ACTIONS.values():
        found[action.params.__name__] = action.params
        found[action.result.__name__] = action.result
    found.update((kind.__name__, kind) for kind in EVENTS.values())
    return found


@cache
def adapter(name: str) -> TypeAdapter[Any]:
    """Return the validator of a type. KeyError for a name that is not in the contract."""
    return TypeAdapter(contract_types()[name])


def json_schema(name: str) -> dict[str, Any]:
    """Return a type's JSON Schema (2020-12), described by its docstrings."""
    kind = contract_types()[name]
    mode: Literal["validation", "serialization"] = "serialization"
    if issubclass(kind, params.Params | envelope.Request):
        mode = "validation"
    schema = adapter(name).json_schema(mode=mode)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"{name}.json", **schema}
    _describe(name, schema)
    for inner, definition in schema.get("$defs", {}).items():
        _describe(inner, definition)
    return schema


def field_texts(name: str) -> dict[str, str]:
    """Return what a type's docstrings say of its fields."""
    return _texts().get(name, {})


def _describe(name: str, schema: dict[str, Any]) -> None:
    for field, text in field_texts(name).items():
        if field in schema.get("properties", {}):
            schema["properties"][field]["description"] = text


@cache
def _texts() -> dict[str, dict[str, str]]:
    """Read the strings below fields: Python keeps class docstrings only."""
    return {
        name: texts
        for module in (envelope, lines, *_files_of(params), *_files_of(results), store_params, store_results)
        for name, texts in _texts_of(module).items()
    }


def _files_of(package: ModuleType) -> list[ModuleType]:
    return [
        import_module(f"{package.__name__}.{file.name}") for file in pkgutil.iter_modules(package.__path__)
    ]


def _texts_of(module: ModuleType) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        texts = found.setdefault(node.name, {})
        for field, after in zip(node.body, node.body[1:], strict=False):
            match field, after:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    texts[name] = " ".join(inspect.cleandoc(text).split())
    return found

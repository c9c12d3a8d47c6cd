"""The contract's actions as methods in Python, for threads and for asyncio."""

import inspect
from enum import Enum
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from protocol.actions import ACTIONS
from protocol.contract import field_texts

_PATH = "worker/client/actions.py"
OWNED = (_PATH,)
"""Where only generated files may lie."""

_OWN = {"worker.hello", "worker.cancel", "worker.subscribe", "worker.shutdown"}
"""What a client sends by itself."""

_PLAIN = {"memory", "worker"}
"""Prefixes that a method's name leaves out."""

_HEAD = '''\
"""Generated from the contract; do not edit. Every action as a method with its own types."""

# fmt: off

from typing import Any, TypeVar

from protocol import results, store_results
from protocol import vocabulary as words
from worker.client.calls import LEFT_OUT, CallOptions, LeftOut

R = TypeVar("R")
'''


def generate() -> dict[str, str]:
    """Return the file's text by its path from the project's root."""
    plain = _class("Actions", "", "waits for its answer")
    coroutines = _class("AsyncActions", "async ", "is a coroutine")
    return {_PATH: f"{_HEAD}\n\n{plain}\n\n{coroutines}"}


def _class(name: str, prefix: str, how: str) -> str:
    methods = [_method(action, prefix) for action in ACTIONS if action not in _OWN]
    call = (
        f"    {prefix}def _call(self, action: str, kind: type[R], data: dict[str, Any],"
        " options: CallOptions | None) -> R:\n        raise NotImplementedError\n"
    )
    return f'class {name}:\n    """Every action of the contract; each {how}."""\n\n' + "\n".join(
        [*methods, call]
    )


def _method(action: str, prefix: str) -> str:
    row, (group, _, short) = ACTIONS[action], action.partition(".")
    name = short if group in _PLAIN else f"{group}_{short}"
    module = row.result.__module__.split(".")[1]  # what lies in a package is had from it
    fields, result = row.params.model_fields, f"{module}.{row.result.__name__}"
    ordered = sorted(fields.items(), key=lambda item: not item[1].is_required())
    parameters = "".join(f", {_argument(each)}: {_hint(field)}" for each, field in ordered)
    data = ", ".join(f'"{each}": {_argument(each)}' for each in fields)
    awaited = "await " if prefix else ""
    head = f"    {prefix}def {name}(self, *{parameters}, options: CallOptions | None = None) -> {result}:"
    body = f'        return {awaited}self._call("{action}", {result}, {{{data}}}, options)'
    return "\n".join([head, *_docstring(action, row.params), body]) + "\n"


def _argument(field: str) -> str:
    """Name a field's argument: ``options`` are the call's."""
    return f"{field}_" if field == "options" else field


def _docstring(action: str, params: type[BaseModel]) -> list[str]:
    first = (inspect.getdoc(params) or action).splitlines()[0]
    texts = field_texts(params.__name__)
    told = [f"        {name}: {text}" for name, text in texts.items() if name in params.model_fields]
    return [f'        """{first}', "", *told, '        """'] if told else [f'        """{first}"""']


def _hint(field: FieldInfo) -> str:
    hint = _text(field.annotation)
    return hint if field.is_required() else f"{hint} | LeftOut = LEFT_OUT"


def _text(kind: Any) -> str:
    """Return a type as it is written: enums by their module, nested objects as what they are on the wire."""
    arguments, origin = get_args(kind), get_origin(kind)
    if kind is type(None):
        text = "None"
    elif kind is Any:
        text = "Any"
    elif hasattr(kind, "__metadata__"):
        text = _text(kind.__origin__)
    elif origin in {list, tuple}:
        text = f"list[{_text(arguments[0])}]"
    elif origin is dict:
        text = f"dict[{_text(arguments[0])}, {_text(arguments[1])}]"
    elif arguments:
        text = " | ".join(map(_text, arguments))
    elif issubclass(kind, Enum):
        text = f"words.{kind.__name__}"
    else:
        text = "dict[str, Any]" if issubclass(kind, BaseModel) else kind.__name__
    return text

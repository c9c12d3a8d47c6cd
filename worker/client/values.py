"""Replies and events as records of the contract, read so that the contract may grow.

A field that is missing is None, one that is unknown is passed over, and a word that an enum does not know stays
the text it is: a worker may be newer or older than its client.
"""

import types
from collections.abc import Callable
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from protocol.record import Record

Read = Callable[[Any], Any]


def read(kind: Any, value: Any) -> Any:
    """Return a JSON value as ``kind``: a record, an enum, or a container of them."""
    return _reader(kind)(value)


@cache
def _reader(kind: Any) -> Read:
    origin, arguments = get_origin(kind), get_args(kind)
    choices = [each for each in arguments if each is not type(None)]
    made: Read = _as_it_is
    if origin in (Union, types.UnionType):
        made = _optional(_reader(choices[0])) if len(choices) == 1 else _as_it_is
    elif origin is tuple:
        made = _list_of(_reader(arguments[0]))
    elif origin is dict:
        made = _dict_of(_reader(arguments[1]))
    elif isinstance(kind, type) and issubclass(kind, dict):  # a TypedDict, of whichever module
        made = _members_of(kind)
    elif isinstance(kind, type) and issubclass(kind, Enum):
        made = _word_of(kind)
    elif isinstance(kind, type) and issubclass(kind, Record):
        made = _record_of(kind)
    return made


def _as_it_is(value: Any) -> Any:
    return value


def _optional(inner: Read) -> Read:
    return lambda value: None if value is None else inner(value)


def _list_of(inner: Read) -> Read:
    return lambda value: tuple(map(inner, value)) if isinstance(value, list) else value


def _dict_of(inner: Read) -> Read:
    return lambda value: {name: inner(each) for name, each in value.items()} if _is_object(value) else value


def _word_of(kind: type[Enum]) -> Read:
    words = {each.value: each for each in kind}
    return lambda value: words.get(value, value) if isinstance(value, str) else value


def _record_of(kind: type[Record]) -> Read:
    members = {name: _optional(_reader(hint)) for name, hint in _fields(kind).items()}

    def make(value: Any) -> Any:
        if not _is_object(value):
            return value
        return kind(**{name: inner(value.get(name)) for name, inner in members.items()})

    return make


def _members_of(kind: Any) -> Read:
    members = {name: _optional(_reader(hint)) for name, hint in get_type_hints(kind).items()}
    return lambda value: (
        {name: inner(value.get(name)) for name, inner in members.items()} if _is_object(value) else value
    )


def _fields(kind: type[Record]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {name: hints[name] for name in kind.__dataclass_fields__}


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)

"""What is wrong around ``data`` in a request line, or of no meaning there, in words. Only lines that have such come here."""

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import ValidationError

from protocol.envelope import Meta, Request
from protocol.vocabulary import INT64_MAX
from worker.core.errors import InvalidRequestError
from worker.core.text import nearest

KEYS = frozenset(Request.model_fields)
META_KEYS = frozenset(Meta.model_fields)
NAME_MAX = 64
"""Longer names are cut where they are quoted, and compared with no known one: that takes the square of their length."""
_KEYS_TOLD = 8
_LIKE = 0.7


def fault_text(fault: Mapping[str, Any]) -> str:
    """Return pydantic's words for a fault, in JSON's terms; for what its readers make of an integer above 64 bits, the limit."""
    value = fault["input"]
    if fault["type"] == "int_type" and type(value) is float and abs(value) > INT64_MAX:
        return f"Input should be an integer of 64 bits, between {-INT64_MAX - 1} and {INT64_MAX}"
    if fault["type"] == "tuple_type":  # how a list is kept here
        return "Input should be a valid list"
    if fault["type"] == "too_short":
        least = fault["ctx"]["min_length"]
        return f"List should have at least {least} item{'s' if least > 1 else ''}, not {len(value)}"
    return str(fault["msg"]).removeprefix("Value error, ")


def invalid(error: ValidationError, message: Mapping[str, Any]) -> InvalidRequestError:
    """Name what is wrong, and what keys there are that are none: the right one may be meant by them."""
    faults = error.errors(include_url=False)
    found = [{"path": ".".join(map(str, each["loc"])), "message": fault_text(each)} for each in faults]
    return InvalidRequestError([*found, *_unknown(message)])


def ignored_member(message: Mapping[str, Any]) -> bytes | None:
    """Return the reply's ``ignored``, and its end, for a request with keys that nothing reads; None for one without."""
    found = _unknown(message)
    return b',"ignored":' + orjson.dumps(found) + b"}\n" if found else None


def cut(key: int | str) -> str:
    """Return a part of a path, no longer than it has to be to find it."""
    text = str(key)
    return text if len(text) <= NAME_MAX else f"{text[:NAME_MAX]}..."


def _unknown(message: Mapping[str, Any]) -> list[dict[str, str]]:
    meta = message.get("meta")
    names = [("", name, KEYS) for name in message if name not in KEYS]
    if type(meta) is dict:
        names += [("meta.", name, META_KEYS) for name in meta if name not in META_KEYS]
    found = [
        {"path": f"{place}{cut(name)}", "message": _hint(name, known)}
        for place, name, known in names[:_KEYS_TOLD]
    ]
    if len(names) > _KEYS_TOLD:
        found.append({"path": "", "message": f"{len(names) - _KEYS_TOLD} more keys are not named"})
    return found


def _hint(name: str, known: frozenset[str]) -> str:
    others = META_KEYS if known is KEYS else KEYS
    places = {each: f"meta.{each}" if known is KEYS else each for each in sorted(others)}
    places |= {each: each for each in sorted(known)}
    meant = places.get(nearest(name, places, _LIKE) or "")
    return (
        f"unknown key; did you mean {meant}?" if meant else "unknown key; what an action takes goes into data"
    )

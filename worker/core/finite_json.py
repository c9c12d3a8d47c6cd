"""JSON without numbers that it has not: ``orjson`` writes null for them, which would be stored as if it had been said."""

import math
import numbers
import operator
from dataclasses import fields, is_dataclass
from typing import Any

import orjson


def json_of(value: Any, option: int | None = None) -> bytes:
    """Return a value as JSON. TypeError for what is none; ValueError for NaN and what is infinite, with its place.

    Single numbers of other libraries, as numpy's sums and products of sizes are, are numbers.
    """
    data = orjson.dumps(value, _plain, option)
    if b"null" in data:  # as which such a number would be written
        _refuse(value, "")
    return data


def _plain(value: Any) -> Any:
    """Return what orjson does not know as a number of Python's own. TypeError for what is none."""
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        return float(value)
    return operator.index(value)


def _refuse(value: Any, place: str) -> None:
    if isinstance(value, numbers.Real):
        if not math.isfinite(value):
            at = f" at {place}" if place else ""
            raise ValueError(f"JSON has no number {value}{at}: give null (None), or a text")
    elif isinstance(value, dict):
        for key, each in value.items():
            _refuse(each, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            _refuse(each, f"{place}[{index}]")
    elif is_dataclass(value):
        for field in fields(value):
            _refuse(getattr(value, field.name, None), f"{place}.{field.name}" if place else field.name)

"""Anything at all as JSON values: where errors become wire, once, so that no error's details can lose its reply."""

import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

from protocol.record import Record
from protocol.vocabulary import INT64_MAX

_VALUES_MAX = 1_000
_DEPTH_MAX = 16
_TEXT_MAX = 4_096


def text_of(value: Any) -> str:
    """Return a text that UTF-8 can hold: half a surrogate pair becomes its name."""
    text = str(value) if isinstance(value, str) else _described(value)
    return text.encode("utf-8", "backslashreplace").decode()


def json_of(details: Any) -> dict[str, Any]:
    """Return details as JSON values: 1,000 at most, 16 levels deep; what JSON does not know as its text."""
    made = _Made().value(details, 0)
    return made if isinstance(made, dict) else {"details": made}


class _Made:
    def __init__(self) -> None:
        self._left = _VALUES_MAX

    def value(self, value: Any, depth: int) -> Any:
        self._left -= 1
        if isinstance(value, Enum):
            value = value.value
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return _number(value)
        if depth < _DEPTH_MAX and self._left > 0:
            if isinstance(value, Record):
                value = vars(value)
            if isinstance(value, Mapping):
                return {text_of(key): self.value(each, depth + 1) for key, each in self._some(value.items())}
            if isinstance(value, list | tuple | set | frozenset):
                return [self.value(each, depth + 1) for each in self._some(value)]
        return text_of(value)

    def _some(self, values: Any) -> Any:
        for each in values:
            if self._left <= 0:
                return
            yield each


def _number(value: int | float) -> Any:  # noqa: PYI041 - which of them it is matters here
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return int(value) if -INT64_MAX - 1 <= value <= INT64_MAX else f"{int(value):#x}"[:_TEXT_MAX]


def _described(value: Any) -> str:
    try:
        return repr(value)[:_TEXT_MAX]
    except Exception:  # noqa: BLE001 - whoever wrote its repr
        return f"<{type(value).__name__}>"

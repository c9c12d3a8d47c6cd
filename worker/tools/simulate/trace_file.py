"""Reads a trace of model uses: JSON lines, written by hand, by a program or by ``--record``.

The first line that is not empty names the models and the capacity, every further one may be a use. A
capacity that is null there is taken from the first later line with ``models`` that has one::

    {"models": {"a": {"size_bytes": 4294967296, "load_ms": 4000}}, "capacity_bytes": 8589934592}
    {"use": "a", "t_ms": 12}

``t_ms`` is optional and only checked. Further keys are ignored, in the first line and in a use. Lines
without the key ``use`` are skipped: a recorded decision log (loads, evictions and their reasons,
between the uses) is read as it is. A later line with ``models`` adds models or replaces their figures
(a log notes a model when it is first measured). A replay takes the
last figures for the whole trace, so that every policy is charged the same for the same load.
"""

import json
from collections.abc import Iterable
from typing import Any

from protocol.record import Record
from protocol.vocabulary import INT64_MAX


class TraceError(ValueError):
    """A trace that cannot be replayed; the message names the line."""


class TraceModel(Record):
    """What a model takes."""

    size_bytes: int
    load_ms: int


class Trace(Record):
    """Models, room and uses."""

    models: dict[str, TraceModel]
    capacity_bytes: int
    uses: tuple[str, ...]


def read_trace(lines: Iterable[str], capacity_bytes: int | None = None) -> Trace:
    """Read a trace; ``capacity_bytes`` replaces the one in the file.

    Raises:
        TraceError: for a line that is not a JSON object, a header without models or capacity, a size
            or time that is not an integer in range, a use of an unknown model or of one above the capacity.

    """
    reader = _Reader(capacity_bytes)
    for number, line in enumerate(lines, 1):
        text = line.strip("\ufeff \t\r\n")
        if text:
            reader.read(_object(text, number), number)
    return reader.trace()


class _Reader:
    """What has been read so far."""

    def __init__(self, capacity_bytes: int | None) -> None:
        # Mutable: all of these, by read.
        self._capacity = capacity_bytes
        self._models: dict[str, TraceModel] | None = None
        self._uses: list[str] = []
        self._first_lines: dict[str, int] = {}

    def read(self, record: dict[str, Any], number: int) -> None:
        """Take over one line."""
        figures = record.get("models")
        if self._models is None:
            if not isinstance(figures, dict):
                text = 'the first line must be {"models": {...}, "capacity_bytes": N}'
                raise TraceError(_at(number, text))
            if record.get("capacity_bytes", 0) is not None:
                self._take_capacity(record.get("capacity_bytes"), number)
            self._models = {}
        elif isinstance(figures, dict) and record.get("capacity_bytes") is not None:
            self._take_capacity(record["capacity_bytes"], number)
        if isinstance(figures, dict):
            self._models.update(_models(figures, number))
        if "use" not in record:
            return
        model_id = record["use"]
        if not isinstance(model_id, str):
            raise TraceError(_at(number, f"use must be a model id, not {model_id!r}"))
        if model_id not in self._models:
            raise TraceError(_at(number, f"model {model_id!r} was not declared"))
        if record.get("t_ms") is not None:
            _integer(record["t_ms"], number, "t_ms", 0)
        self._uses.append(model_id)
        self._first_lines.setdefault(model_id, number)

    def _take_capacity(self, value: object, number: int) -> None:
        if self._capacity is None:
            self._capacity = _integer(value, number, "capacity_bytes", 1)

    def trace(self) -> Trace:
        """Give what was read, if every model that is used fits."""
        if self._models is None:
            raise TraceError(_at(1, "the trace is empty"))
        if self._capacity is None:
            raise TraceError(_at(1, "no model was used yet, and no line has a capacity_bytes"))
        for model_id, number in self._first_lines.items():
            size = self._models[model_id].size_bytes
            if size > self._capacity:
                text = f"model {model_id!r} takes {size} bytes, the capacity is {self._capacity}"
                raise TraceError(_at(number, text))
        return Trace(self._models, self._capacity, tuple(self._uses))


def _at(number: int, text: str) -> str:
    return f"line {number}: {text}"


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TraceError(_at(number, f"not JSON: {error}")) from None
    if not isinstance(record, dict):
        raise TraceError(_at(number, "not a JSON object"))
    return record


def _models(found: dict[str, Any], number: int) -> dict[str, TraceModel]:
    models = {}
    for model_id, figures in found.items():
        if not isinstance(figures, dict):
            raise TraceError(_at(number, f'model {model_id!r} must be {{"size_bytes": N, "load_ms": T}}'))
        size = _integer(figures.get("size_bytes"), number, f"size_bytes of model {model_id!r}", 1)
        load = _integer(figures.get("load_ms"), number, f"load_ms of model {model_id!r}", 0)
        models[model_id] = TraceModel(size, load)
    return models


def _integer(value: object, number: int, name: str, lowest: int) -> int:
    if type(value) is not int or not lowest <= value <= INT64_MAX:  # a bool is no size
        raise TraceError(_at(number, f"{name} must be an integer of at least {lowest}, not {value!r}"))
    return value

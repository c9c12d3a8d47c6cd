"""Traces of several consumers that share one memory: which entry each of them used, in order.

JSON lines, the first of which names what there is::

    {"consumers": {"kv": {"entries": {"s1": {"size_bytes": 4194304, "cost_ms": 300}}}}, "capacity_bytes": 8388608}
    {"consumer": "kv", "use": "s1", "t_ms": 12}

``cost_ms`` is what building the entry takes where it is not kept; ``t_ms`` may be left out. Later lines with
``consumers`` add entries. Lines without ``use``, and further keys, are ignored.
"""

import math
from collections.abc import Iterable
from typing import Any

from protocol.record import Record
from protocol.vocabulary import INT64_MAX
from worker.tools.simulate.lines import TraceError, at, integer, objects

Key = tuple[str, str]
"""Consumer and entry."""


class Entry(Record):
    """Something that a consumer may keep."""

    size_bytes: int
    cost_ms: float
    """What building it takes."""


class ConsumerTrace(Record):
    """Several consumers, what they may keep together, and their uses in order."""

    entries: dict[str, dict[str, Entry]]
    """Of each consumer, by name."""
    capacity_bytes: int
    uses: tuple[Key, ...]
    times: tuple[int | None, ...] = ()

    @property
    def timed(self) -> bool:
        """Whether the time of every use is known."""
        return len(self.times) == len(self.uses) and None not in self.times

    def entry(self, key: Key) -> Entry:
        """Return an entry."""
        return self.entries[key[0]][key[1]]

    def of(self, consumer: str, capacity_bytes: int) -> "ConsumerTrace":
        """Return what one consumer does with a memory of its own."""
        uses = tuple(key for key in self.uses if key[0] == consumer)
        return ConsumerTrace({consumer: self.entries[consumer]}, capacity_bytes, uses)


def is_consumer_trace(first: dict[str, Any]) -> bool:
    """Tell by its first line whether a file is such a trace."""
    return "consumers" in first and "models" not in first


def read_consumer_trace(lines: Iterable[str], capacity_bytes: int | None = None) -> ConsumerTrace:
    """Read a trace; ``capacity_bytes`` replaces that in the file.

    Raises:
        TraceError: for a line that is no JSON object, a first line without consumers or capacity, a size, cost or time
            out of range, a use of what was not declared.

    """
    entries: dict[str, dict[str, Entry]] = {}
    uses: list[Key] = []
    times: list[int | None] = []
    capacity = capacity_bytes
    begun = False
    for number, line in objects(lines):
        if not begun:
            if not isinstance(line.get("consumers"), dict):
                raise TraceError(
                    at(number, 'the first line must be {"consumers": {...}, "capacity_bytes": N}')
                )
            if capacity is None or "capacity_bytes" in line:
                stated = integer(line.get("capacity_bytes"), number, "capacity_bytes", 1)
                capacity = stated if capacity is None else capacity
            begun = True
        if "consumers" in line:
            _add(entries, line["consumers"], number)
        if "use" in line:
            uses.append(_use(entries, line, number))
            t_ms = line.get("t_ms")
            times.append(None if t_ms is None else integer(t_ms, number, "t_ms", 0))
    if not begun or capacity is None:
        raise TraceError(at(1, "the trace is empty"))
    return ConsumerTrace(entries, capacity, tuple(uses), tuple(times))


def _add(entries: dict[str, dict[str, Entry]], found: object, number: int) -> None:
    if not isinstance(found, dict):
        raise TraceError(at(number, "consumers must be an object"))
    for consumer, said in found.items():
        rows = said.get("entries") if isinstance(said, dict) else None
        if not isinstance(rows, dict):
            raise TraceError(at(number, f'consumer {consumer!r} must be {{"entries": {{...}}}}'))
        own = entries.setdefault(consumer, {})
        for name, row in rows.items():
            where = f"of entry {name!r} of {consumer!r}"
            if not isinstance(row, dict):
                raise TraceError(at(number, f'the value {where} must be {{"size_bytes": N, "cost_ms": T}}'))
            size = integer(row.get("size_bytes"), number, f"size_bytes {where}", 1)
            own[name] = Entry(size, _milliseconds(row.get("cost_ms"), number, f"cost_ms {where}"))


def _use(entries: dict[str, dict[str, Entry]], line: dict[str, Any], number: int) -> Key:
    consumer, name = line.get("consumer"), line["use"]
    if not isinstance(consumer, str) or consumer not in entries:
        raise TraceError(at(number, f"consumer {consumer!r} was not declared"))
    if not isinstance(name, str) or name not in entries[consumer]:
        raise TraceError(at(number, f"entry {name!r} of {consumer!r} was not declared"))
    return consumer, name


def _milliseconds(value: object, number: int, name: str) -> float:
    # A bool is no time; what is larger than any integer of the protocol is none that can be added up.
    if type(value) not in (int, float) or not math.isfinite(value) or not 0 <= value <= INT64_MAX:  # type: ignore[arg-type,operator]  # its type was just looked at
        raise TraceError(at(number, f"{name} must be a number of at least 0, not {value!r}"))
    return float(value)  # type: ignore[arg-type]  # its type was just looked at

"""``--record FILE``: decisions about models, and notes of what else happened, as JSON lines.

``python -m memory_worker simulate`` replays the decisions and passes over the notes. A line that declares a model
comes before its first use, as that format wants it, and one with a device's capacity before what was decided in it. The
file is bounded: at the limit it becomes ``FILE.1``, in place of the one before, and a new one begins with all
models and capacities known so far.
"""

import math
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

from protocol.vocabulary import HealthState
from worker.core.health import PartHealth
from worker.core.log import log
from worker.core.paths import shown
from worker.core.records import Decision, DecisionKind
from worker.core.shortages import patiently, start_thread
from worker.export.private_file import Sink

MAX_BYTES = 64 * 2**20
_BEGINS = b'{"capacity_bytes":null,'
"""As every record does, and no models.json."""
_MAX_WAITING_NOTES = 5_000
_MAX_WAITING = 10_000
"""Notes beyond the one, and decisions beyond the other, that the disk has not taken yet are counted and dropped: about
a kilobyte each, 10 MiB in all."""
_FLUSH_BYTES = 64 * 1024
_END_SECONDS = 3.0
"""A disk or a reader that takes nothing for so long does not hold up the worker's end."""


class DecisionLog:
    """Writes on a thread of its own: whoever decides never waits for a disk, or for the reader of a pipe."""

    def __init__(
        self, path: Path, max_bytes: int = MAX_BYTES, about: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._about = dict(about)
        """Goes into each file's first line: who writes, and since when."""
        self._queue: queue.SimpleQueue[Decision | dict[str, Any] | None] = queue.SimpleQueue()
        self._dropped = 0
        self._ends_at = math.inf
        # All mutable state, the writing thread's: the file, its size, what is to go into it, and the figures told in it.
        self._sink = Sink(path, _BEGINS)
        self._failure: str | None = None
        self._written = 0
        self._waiting = bytearray()
        self._models: dict[str, dict[str, Any]] = {}
        self._capacities: dict[str, int] = {}
        """Of each device, as last written."""
        self._over = start_thread(self._run, "decisions")

    def record(self, decision: Decision) -> None:
        """Take a decision over, at once."""
        self._put(decision, _MAX_WAITING)

    def note(self, line: dict[str, Any]) -> None:
        """Take a note over, at once: one JSON object, without a key ``use`` or ``models``."""
        self._put(line, _MAX_WAITING_NOTES)

    def health(self) -> Iterator[PartHealth]:
        """Tell whether everything is recorded."""
        if self._failure is not None:
            what = f"decisions are no longer recorded: {self._failure}; mend that, and start the worker again"
            yield PartHealth("record", HealthState.FAILED, what)
            return
        dropped = self._dropped
        said = f"{dropped} lines were dropped: the disk was slow" if dropped else None
        yield PartHealth("record", HealthState.DEGRADED if dropped else HealthState.OK, said)

    def close(self) -> None:
        """Write what is left, and close the file; what is not taken within a few seconds is lost."""
        self._queue.put(None)
        self._ends_at = time.monotonic() + _END_SECONDS
        if not self._over.wait(_END_SECONDS + 1):
            log("warning", "the end of the record could not be written in time", path=shown(self._path))

    def _put(self, item: Decision | dict[str, Any], most: int) -> None:
        """Take over what there is a place and memory for: telling of something is no part of doing it."""
        with suppress(MemoryError):
            if self._queue.qsize() < most:
                self._queue.put(item)
                return
        self._dropped += 1

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            # Decisions are accepted also where they are no longer recorded, so that nothing piles up.
            if self._failure is None:
                self._survive(self._write if isinstance(item, Decision) else self._write_note, item)
        if self._failure is None:
            self._survive(self._flush)
        self._sink.close()

    def _survive(self, step: Callable[..., None], *arguments: Any) -> None:
        """Do it: the guard of the thread. Where the disk did not take it nothing more is recorded, and the log has that."""
        try:
            step(*arguments)
            if self._queue.empty() or len(self._waiting) > _FLUSH_BYTES:
                self._flush()
        except MemoryError:
            self._dropped += 1
        except Exception as error:  # noqa: BLE001 - the disk, or a bug
            self._failure = str(error)
            told = {"path": shown(self._path), "error": self._failure}
            patiently(lambda: log("warning", "decisions are no longer recorded", **told))

    def _flush(self) -> None:
        data, self._waiting = bytes(self._waiting), bytearray()
        self._sink.write(data, lambda: time.monotonic() > self._ends_at)

    def _write(self, decision: Decision) -> None:
        self._begin()
        device_id, keep = (
            decision.device_id,
            {"keep_alive_ms": decision.keep_alive_ms, "pinned": decision.pinned},
        )
        about: dict[str, Any] = {"t_ms": decision.t_ms, "device_id": device_id}
        capacity = decision.capacity_bytes
        if capacity and self._capacities.get(device_id) != capacity:
            self._capacities[device_id] = capacity
            self._line({"capacity_bytes": capacity} | about)
        if decision.kind is DecisionKind.LOAD:
            figures = {"size_bytes": decision.size_bytes, "load_ms": decision.load_ms}
            self._models[decision.model_id] = figures | keep
            self._line({"models": {decision.model_id: figures | keep}} | about)
        line: dict[str, Any] = {decision.kind.value: decision.model_id} | about
        if decision.kind is DecisionKind.KEEP:
            line |= keep
            self._models.get(decision.model_id, {}).update(keep)
        if decision.cause is not None:
            line["cause"] = decision.cause
        if decision.reason is not None:
            line["reason"] = decision.reason
        self._line(line)

    def _write_note(self, note: dict[str, Any]) -> None:
        self._begin()
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._line({"dropped": dropped})
        self._line(note)

    def _begin(self) -> None:
        """Turn the file over if it is full, or was by another program, and write a new one's first line."""
        if not self._waiting and self._sink.is_file and not self._sink.is_whole(self._written):
            self._sink.begin_anew()
            self._written = 0
        if self._written > self._max_bytes and self._sink.is_file:
            self._flush()
            self._sink.turn_over()
            self._written = 0
        if not self._written:
            devices = {each: {"capacity_bytes": size} for each, size in self._capacities.items()}
            self._line({"capacity_bytes": None, "devices": devices, "models": self._models} | self._about)

    def _line(self, value: dict[str, Any]) -> None:
        line = orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
        self._waiting += line
        self._written += len(line)

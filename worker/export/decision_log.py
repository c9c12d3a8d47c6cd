"""``--record FILE``: decisions about models, and notes of what else happened, as JSON lines.

``python -m memory_worker simulate`` replays the decisions and passes over the notes. A line that declares a model
comes before its first use, as that format wants it, and one with a device's capacity before what was decided in it. The
file is bounded: at the limit it becomes ``FILE.1``, in place of the one before, and a new one begins with all
models and capacities known so far.
"""

import queue
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

import orjson

from worker.core.log import log
from worker.core.records import Decision, DecisionKind

MAX_BYTES = 64 * 2**20
_MAX_WAITING = 10_000
"""Notes beyond these, that the disk has not accepted yet, are counted and dropped; decisions never are."""


class DecisionLog:
    """Writes on a thread of its own: a decision never waits for a disk."""

    def __init__(
        self, path: Path, max_bytes: int = MAX_BYTES, about: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._about = dict(about)
        """Goes into each file's first line: who writes, and since when."""
        self._queue: queue.SimpleQueue[Decision | dict[str, Any] | None] = queue.SimpleQueue()
        self._dropped = 0
        # All mutable state, the writing thread's: the file, its size, and the figures told in it.
        self._file: TextIO = path.open("w", encoding="utf-8")
        self._written = 0
        self._models: dict[str, dict[str, Any]] = {}
        self._capacities: dict[str, int] = {}
        """Of each device, as last written."""
        self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)
        self._thread.start()

    def record(self, decision: Decision) -> None:
        """Take a decision over, at once."""
        self._queue.put(decision)

    def note(self, line: dict[str, Any]) -> None:
        """Take a note over, at once: one JSON object, without a key ``use`` or ``models``."""
        if self._queue.qsize() < _MAX_WAITING:
            self._queue.put(line)
        else:
            self._dropped += 1

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        failed = False
        while (item := self._queue.get()) is not None:
            if not failed:
                if isinstance(item, Decision):
                    step = partial(self._write, item)
                else:
                    step = partial(self._write_note, item)
                failed = not self._survives(step)
            # Decisions are accepted also after that, so that nothing piles up.
        self._survives(self._file.close)

    def _survives(self, step: Callable[[], None]) -> bool:
        """Do it. False, and a line in the log, if the disk did not take it."""
        try:
            step()
            if self._queue.empty() and not self._file.closed:
                self._file.flush()
        except OSError as error:
            log("warning", "decisions are no longer recorded", path=str(self._path), error=str(error))
            return False
        return True

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
        """Turn the file over if it is full, and write a new one's first line."""
        if self._written > self._max_bytes:
            self._rotate()
        if not self._written:
            devices = {each: {"capacity_bytes": size} for each, size in self._capacities.items()}
            self._line({"models": self._models, "capacity_bytes": None, "devices": devices} | self._about)

    def _line(self, value: dict[str, Any]) -> None:
        text = orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE).decode()
        self._file.write(text)
        self._written += len(text)

    def _rotate(self) -> None:
        self._file.close()
        self._path.replace(self._path.with_name(self._path.name + ".1"))
        self._file = self._path.open("w", encoding="utf-8")
        self._written = 0

"""Measures operations: their time, and how the worker's process grew meanwhile.

A plugin's, ``with host.operation("embed"):``, and a host's, between ``operation.begin`` and ``operation.end``.
Memory is this process's, as the system counts it: of operations side by side each sees what all of them
take. The peak is sampled a hundred times a second while any is under way; shorter ones may be missed, and without
a thread for that it is the larger of what was seen at the begin and at the end of any.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from protocol.record import Record
from worker.core.clock import NS_PER_US
from worker.core.errors import LimitExceededError, OperationNotFoundError, OutOfMemoryError
from worker.core.log import log
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureCondition
from worker.wiring import Core

_SAMPLE_SECONDS = 0.01
_MAX_NAME = 128
_MAX_RUNNING = 1024
"""Operations that a host may have under way: what it forgets to end stays until the worker ends."""


class EndedOperation(Record):
    """What an operation took."""

    name: str
    duration_us: int
    peak_bytes: int | None
    """The most that the process had grown by while it was under way; None where the system does not say."""
    delta_bytes: int | None
    """What it had grown by at the end; negative where it shrank."""


class _Running:
    __slots__ = ("begun_bytes", "name", "peak_bytes", "started_ns")

    def __init__(self, name: str, started_ns: int, begun_bytes: int | None) -> None:
        self.name = name
        self.started_ns = started_ns
        self.begun_bytes = begun_bytes
        self.peak_bytes = begun_bytes or 0


class OperationWorker:
    """What is under way. Thread-safe."""

    def __init__(self, core: Core, process_bytes: Callable[[], int | None]) -> None:
        self._history = core.history
        self._clock = core.clock
        self._ids = core.manager.ids
        self._process_bytes = process_bytes
        self._changed = SureCondition()
        # All mutable state: the operations, the host's among them by their id, and whether peaks are being sampled.
        self._running: set[_Running] = set()
        self._by_id: dict[str, _Running] = {}
        self._count = 0
        self._sampling = False

    @contextmanager
    def operation(self, name: str) -> Iterator[None]:
        """Measure what is done inside; ``memory.get_analytics`` has it as ``operation:NAME``.

        ValueError for a name that is empty or longer than 128 characters.
        """
        if not 0 < len(name) <= _MAX_NAME:
            raise ValueError(f"an operation's name has 1 to {_MAX_NAME} characters, not {len(name)}")
        running, failed = self._start(name), True
        try:
            yield
            failed = False
        finally:
            self._finish(running, failed=failed)

    def begin(self, name: str) -> str:
        """Begin to measure what the host does, and return the id that ends it.

        LimitExceededError where 1,024 are under way.
        """
        with self._changed:
            if len(self._by_id) >= _MAX_RUNNING:
                oldest, first = next(iter(self._by_id.items()))
                message = (
                    f"{_MAX_RUNNING} operations are under way, the oldest of them {oldest}, {first.name!r};"
                )
                raise LimitExceededError(
                    f"{message} end those that are over with operation.end", operation_id=oldest
                )
            self._count += 1
            operation_id = self._ids.make("operation", self._count)
        running = self._start(name)
        with self._changed:
            self._by_id[operation_id] = running
        return operation_id

    def end(self, operation_id: str, *, failed: bool) -> EndedOperation:
        """End an operation of the host's, and return what it took. OperationNotFoundError if it is not under way."""
        with self._changed:
            running = self._by_id.pop(operation_id, None)
        if running is None:
            why = (
                "it was of another worker process"
                if self._ids.is_of_another(operation_id)
                else "it is over, or never began"
            )
            raise OperationNotFoundError(f"no operation {operation_id!r}: {why}", operation_id=operation_id)
        return self._finish(running, failed=failed)

    def _start(self, name: str) -> _Running:
        running = _Running(name, self._clock.now_ns(), self._look())
        with self._changed:
            if not self._sampling:
                # Where there is no thread for it now, the next one starts it: measuring keeps no work from being done.
                with suppress(OutOfMemoryError):
                    start_thread(self._sample, "operations")
                    self._sampling = True
            self._running.add(running)
            self._changed.notify_all()
        return running

    def _finish(self, running: _Running, *, failed: bool) -> EndedOperation:
        duration_ns = self._clock.now_ns() - running.started_ns
        try:
            before, after = running.begun_bytes, self._look()
        finally:
            with self._changed:
                self._running.discard(running)
        peak = delta = None
        if before is not None and after is not None:
            peak = running.peak_bytes - before
            delta = after - before
        self._history.record_operation(running.name, duration_ns, peak, delta, failed=failed)
        return EndedOperation(running.name, duration_ns // NS_PER_US, peak, delta)

    def _look(self) -> int | None:
        """Return what the process takes now: a new peak of all that are under way, if it is one."""
        now = self._process_bytes()
        with self._changed:
            for each in self._running:
                each.peak_bytes = max(each.peak_bytes, now or 0)
        return now

    def _sample(self) -> None:
        """Sample while anything is under way; idle, the thread waits and costs nothing."""
        while True:
            try:
                with self._changed:
                    self._changed.wait_for(lambda: self._running)
                self._look()
                with self._changed:
                    self._changed.wait_for(lambda: not self._running, _SAMPLE_SECONDS)
            except Exception as error:  # noqa: BLE001 - a thread must not end
                _survived(error)


def _survived(error: Exception) -> None:
    """Go without a sample: where memory is short without a word, for that takes some."""
    if not isinstance(error, MemoryError):
        log("error", "an operation's memory could not be sampled", error=repr(error))
    time.sleep(_SAMPLE_SECONDS)

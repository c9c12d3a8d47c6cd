"""Measures operations of in-process code: ``with host.operation("embed"):``, its time and its memory.

Memory is this process's, as the system counts it: of operations side by side each sees what all of them
take. The peak is sampled a hundred times a second while any is under way; shorter ones may be missed.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.core.clock import Clock
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureCondition
from worker.metrics.history import History

_SAMPLE_SECONDS = 0.01
_MAX_NAME = 128


class _Running:
    __slots__ = ("peak_bytes",)

    def __init__(self, begun_bytes: int | None) -> None:
        self.peak_bytes = begun_bytes


class Operations:
    """What is under way. Thread-safe."""

    def __init__(self, history: History, clock: Clock, process_bytes: Callable[[], int | None]) -> None:
        self._history = history
        self._clock = clock
        self._process_bytes = process_bytes
        self._changed = SureCondition()
        # All mutable state: the operations, and whether their peaks are being sampled.
        self._running: set[_Running] = set()
        self._sampling = False

    @contextmanager
    def operation(self, name: str) -> Iterator[None]:
        """Measure what is done inside; ``memory.get_analytics`` has it as ``operation:NAME``.

        ValueError for a name that is empty or longer than 128 characters.
        """
        if not 0 < len(name) <= _MAX_NAME:
            raise ValueError(f"an operation's name has 1 to {_MAX_NAME} characters, not {len(name)}")
        before = self._process_bytes()
        running = self._begin(before)
        started_ns, failed = self._clock.now_ns(), True
        try:
            yield
            failed = False
        finally:
            duration_ns = self._clock.now_ns() - started_ns
            after = self._end(running)
            peak = delta = None
            if before is not None and after is not None:
                peak = max(running.peak_bytes or before, after, before) - before
                delta = after - before
            self._history.record_operation(name, duration_ns, peak, delta, failed=failed)

    def _begin(self, begun_bytes: int | None) -> _Running:
        running = _Running(begun_bytes)
        with self._changed:
            self._running.add(running)
            if not self._sampling:
                self._sampling = True
                start_thread(self._sample, "operations")
            self._changed.notify_all()
        return running

    def _end(self, running: _Running) -> int | None:
        after = self._process_bytes()
        with self._changed:
            self._running.discard(running)
        return after

    def _sample(self) -> None:
        """Sample while anything is under way; idle, the thread waits and costs nothing."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._running)
            now = self._process_bytes()
            with self._changed:
                for each in self._running:
                    if now is not None and now > (each.peak_bytes or 0):
                        each.peak_bytes = now
                self._changed.wait_for(lambda: not self._running, _SAMPLE_SECONDS)

"""Things to do at a time: by a thread of its own, or when the loop asks."""

import heapq
import itertools
import threading
from collections.abc import Callable
from contextlib import suppress

from worker.core.clock import NS_PER_MS, NS_PER_S, Clock
from worker.core.errors import OutOfMemoryError
from worker.core.log import log
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureCondition, SureLock

_TRY_AGAIN_NS = 100 * NS_PER_MS
"""A callback that found no memory, or no thread, is called again after this."""
_CANCELLED_KEPT = 64
"""Cancelled timers are swept out once there are more than these, and more than others."""


class Timer:
    """A callback to come. Its end, or ``cancel``, lets go of everything that it holds."""

    __slots__ = ("_alarm", "callback", "due_ns", "order")

    def __init__(self, alarm: "Alarm", due_ns: int, order: int, callback: Callable[[], None]) -> None:
        self.due_ns = due_ns
        self.order = order
        self.callback: Callable[[], None] | None = callback
        self._alarm = alarm

    def __lt__(self, other: "Timer") -> bool:
        return (self.due_ns, self.order) < (other.due_ns, other.order)

    def cancel(self) -> None:
        """Do not call back. Idempotent; what is being called just now goes on."""
        self._alarm.cancel(self)


class Alarm:
    """Callbacks by due time. They run on the alarm's thread, and must not wait: for anything slow, use another."""

    def __init__(self, clock: Clock, name: str = "alarm") -> None:
        self._clock = clock
        self._name = name
        self._changed = SureCondition(SureLock())
        self._order = itertools.count()
        # All mutable state.
        self._due: list[Timer] = []
        self._cancelled = 0

    def at(self, due_ns: int, callback: Callable[[], None]) -> Timer:
        """Call back once the clock reaches this time."""
        timer = Timer(self, due_ns, next(self._order), callback)
        with self._changed:
            heapq.heappush(self._due, timer)
            if self._due[0] is timer:
                self._changed.notify()
        return timer

    def cancel(self, timer: Timer) -> None:
        """Let go of a callback."""
        with self._changed:
            if timer.callback is None:
                return
            timer.callback = None
            self._cancelled += 1
            if self._cancelled > max(_CANCELLED_KEPT, len(self._due) // 2):
                self._due = [each for each in self._due if each.callback is not None]
                heapq.heapify(self._due)
                self._cancelled = 0

    def run_due(self) -> None:
        """Call back all that is due."""
        while True:
            with self._changed:
                if not self._due or self._due[0].due_ns > self._clock.now_ns():
                    return
                timer = heapq.heappop(self._due)
                callback, timer.callback = timer.callback, None
                self._cancelled -= callback is None
            if callback is not None:
                self._call(callback)

    def start(self) -> None:
        """Run the thread. OutOfMemoryError where there is none."""
        start_thread(self._run, self._name)

    def _call(self, callback: Callable[[], None]) -> None:
        """Call back, whatever comes of it; later again where memory was short."""
        try:
            callback()
        except (MemoryError, OutOfMemoryError):
            with suppress(MemoryError):
                self.at(self._clock.now_ns() + _TRY_AGAIN_NS, callback)
        except BaseException as error:  # noqa: BLE001 - a bug, and the other timers go on
            _told(error, self._name)

    def _run(self) -> None:
        while True:
            try:
                self._wait()
                self.run_due()
            except BaseException as error:  # noqa: BLE001 - what is due is still there
                _told(error, self._name)

    def _wait(self) -> None:
        with self._changed:
            wait = None
            if self._due:
                wait = min((self._due[0].due_ns - self._clock.now_ns()) / NS_PER_S, threading.TIMEOUT_MAX)
            if wait is None or wait > 0:
                self._changed.wait(wait)


def _told(error: BaseException, name: str) -> None:
    if not isinstance(error, MemoryError):
        log("error", "a bug in a timer", error=repr(error), timers=name)

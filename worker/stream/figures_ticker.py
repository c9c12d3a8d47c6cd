"""Figures to a subscriber at a steady pace, for as long as it wants them."""

from collections.abc import Callable
from functools import partial

from worker.core.sure_lock import SureLock
from worker.stream.alarm import Alarm, Timer
from worker.stream.work import Work

Later = Callable[[int, Callable[[], None]], Timer]
"""Has something done once the clock reaches a time, by a thread that may take its time."""


def taken_by(submit: Callable[[Work], None], alarm: Alarm) -> Later:
    """Return what has figures taken at a time, as work that no caller waits for: it may wait for a device itself."""

    def later(due_ns: int, run: Callable[[], None]) -> Timer:
        work = Work(action="memory.figures", run=lambda _: run(), quick=False)
        return alarm.at(due_ns, partial(submit, work))

    return later


class FiguresTicker:
    """Takes figures and hands them to one subscriber. Figures that are late skip what they missed, and keep the pace."""

    def __init__(self, now_ns: Callable[[], int], later: Later, tell: Callable[[], bool]) -> None:
        """``tell`` takes figures and has them sent; it returns False once the subscriber is gone, which ends it."""
        self._now_ns = now_ns
        self._later = later
        self._tell_subscriber = tell
        self._lock = SureLock()
        # All mutable state: how often, and the timer of the next; a change of pace makes it another.
        self.every_ns: int | None = None
        self._timer: Timer | None = None

    def set(self, every_ns: int | None) -> None:
        """Tell at once, and then every so often; None ends it. The same pace as before goes on as it was."""
        with self._lock:
            if every_ns == self.every_ns:
                return
            self.every_ns = every_ns
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if every_ns is not None:
                self._arm(self._now_ns(), every_ns)

    def _arm(self, due_ns: int, every_ns: int) -> None:
        self._timer = self._later(due_ns, partial(self._tell, due_ns, every_ns))

    def _tell(self, due_ns: int, every_ns: int) -> None:
        there = True
        try:
            if self.every_ns == every_ns:
                there = self._tell_subscriber()
        finally:  # a bug in taking figures is told by who runs this, and ends no subscription
            with self._lock:
                if self.every_ns == every_ns:
                    if there:
                        missed = max(0, self._now_ns() - due_ns) // every_ns
                        self._arm(due_ns + (missed + 1) * every_ns, every_ns)
                    else:
                        self.every_ns = self._timer = None

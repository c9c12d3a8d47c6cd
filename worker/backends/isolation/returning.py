"""Trying again, beside everything else, to put what waits in host memory back where it belongs."""

from collections.abc import Callable

from worker.core.clock import NS_PER_S, Clock
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureEvent

_FIRST_DELAY_NS = NS_PER_S
_LONGEST_DELAY_NS = 60 * NS_PER_S


class Returning:
    """One try at a time, a second after the one before, then twice as long each time, up to a minute."""

    def __init__(self, clock: Clock, attempt: Callable[[], None]) -> None:
        self._clock = clock
        self._attempt = attempt
        # All mutable state: set once the last try is over, and when it may be tried again.
        self._tried: SureEvent | None = None
        self._delay_ns = _FIRST_DELAY_NS
        self._due_ns = 0

    def check(self, *, needed: bool) -> None:
        """Begin a try, if one is needed, due, and not going on. For one thread at a time; never waits."""
        if not needed:
            self._delay_ns, self._due_ns = _FIRST_DELAY_NS, 0
            return
        now = self._clock.now_ns()
        if now < self._due_ns or (self._tried is not None and not self._tried.is_set()):
            return
        self._due_ns = now + self._delay_ns
        self._delay_ns = min(2 * self._delay_ns, _LONGEST_DELAY_NS)
        self._tried = start_thread(self._attempt, "device-returning")

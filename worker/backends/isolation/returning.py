"""Trying again, beside everything else, to put what waits in host memory back where it belongs."""

import threading
from collections.abc import Callable

from worker.core.clock import NS_PER_S, Clock

_FIRST_DELAY_NS = NS_PER_S
_LONGEST_DELAY_NS = 60 * NS_PER_S


class Returning:
    """One try at a time, a second after the one before, then twice as long each time, up to a minute."""

    def __init__(self, clock: Clock, attempt: Callable[[], None]) -> None:
        self._clock = clock
        self._attempt = attempt
        # All mutable state: the thread that tries, and when it may be tried again.
        self._thread: threading.Thread | None = None
        self._delay_ns = _FIRST_DELAY_NS
        self._due_ns = 0

    def check(self, *, needed: bool) -> None:
        """Begin a try, if one is needed, due, and not going on. For one thread at a time; never waits."""
        if not needed:
            self._delay_ns, self._due_ns = _FIRST_DELAY_NS, 0
            return
        now = self._clock.now_ns()
        if now < self._due_ns or (self._thread is not None and self._thread.is_alive()):
            return
        self._due_ns = now + self._delay_ns
        self._delay_ns = min(2 * self._delay_ns, _LONGEST_DELAY_NS)
        self._thread = threading.Thread(target=self._attempt, name="device-returning", daemon=True)
        self._thread.start()

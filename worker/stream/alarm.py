"""Things to do at a time: by a thread of its own, or when the loop asks."""

import heapq
import itertools
import threading
from collections.abc import Callable

from worker.core.clock import NS_PER_S, Clock


class Alarm:
    """Callbacks by due time. They run on the alarm's thread and are to be short."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._order = itertools.count()
        # All mutable state.
        self._due: list[tuple[int, int, Callable[[], None]]] = []

    def at(self, due_ns: int, callback: Callable[[], None]) -> None:
        """Call back once the clock reaches this time."""
        with self._changed:
            heapq.heappush(self._due, (due_ns, next(self._order), callback))
            self._changed.notify()

    def run_due(self) -> None:
        """Call back all that is due."""
        while True:
            with self._changed:
                if not self._due or self._due[0][0] > self._clock.now_ns():
                    return
                _, _, callback = heapq.heappop(self._due)
            callback()

    def start(self) -> None:
        """Run the thread."""
        threading.Thread(target=self._run, name="alarm", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._changed:
                wait = None
                if self._due:
                    wait = min((self._due[0][0] - self._clock.now_ns()) / NS_PER_S, threading.TIMEOUT_MAX)
                if wait is None or wait > 0:
                    self._changed.wait(wait)
            self.run_due()

"""Asking a device that may not answer: on a thread of its own, so that no caller waits longer than it is worth."""

from collections.abc import Callable
from contextlib import suppress

from worker.core.errors import OutOfMemoryError
from worker.core.log import log
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureCondition, SureLock

PATIENCE_S = 0.25
"""What a device that answers takes is about 0.1 ms. Then the figures before it have to do."""


class Reader:
    """Does one thing, such as taking one device's readings, once at a time and as often as it is asked."""

    def __init__(self, name: str, take: Callable[[], None]) -> None:
        self._name = name
        self._take = take
        self._changed = SureCondition(SureLock())
        # All mutable state: how often it was asked for, how often it is over, and whether the thread runs.
        self._asked = self._over = 0
        self._late = False
        """Whether somebody's patience ended with the present one: no other caller waits for it."""
        self._running = False

    def read(self, patience_s: float = PATIENCE_S) -> None:
        """Have it done from now on, and wait for that, for so long at most."""
        with self._changed:
            if not self._running:
                with suppress(OutOfMemoryError):  # there is no thread: the figures at hand have to do
                    start_thread(self._run, self._name)
                    self._running = True
            mine = self._asked = self._over + (2 if self._asked > self._over else 1)
            self._changed.notify_all()
            if self._late or not self._running or not patience_s:
                return
            if not self._changed.wait_for(lambda: self._over >= mine, patience_s):
                self._late = True

    def _run(self) -> None:
        while True:
            try:
                with self._changed:
                    while self._asked <= self._over:
                        self._changed.wait()
                self._take()
            except BaseException as error:  # noqa: BLE001 - the next ones may come
                if not isinstance(error, MemoryError):
                    log("error", "asking a device failed", about=self._name, error=repr(error))
            self._end()

    def _end(self) -> None:
        with self._changed:
            self._over = max(self._over + 1, self._asked - 1)
            self._late = False
            self._changed.notify_all()

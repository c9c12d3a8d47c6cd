"""What is due in stores is done beside everything else, while any is open."""

from collections.abc import Callable
from contextlib import suppress

from worker.core.log import log
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureEvent
from worker.plugins import OutOfMemoryError

_END_S = 5.0


class Upkeep:
    """A thread that calls ``tend`` every so many seconds, from ``begin`` until ``end``; none at all without a pace."""

    def __init__(self, tend: Callable[[], None], every_s: float | None) -> None:
        self._tend = tend
        self._every_s = every_s
        self._ending = SureEvent()
        # All mutable state: what is set when the thread has ended, once there is something to tend.
        self._ended: SureEvent | None = None

    def begin(self) -> None:
        """Begin, unless it has. Where the system has no thread for it now, the next one begins it."""
        if self._ended is not None or self._every_s is None or self._ending.is_set():
            return
        with suppress(OutOfMemoryError):
            self._ended = start_thread(self._run, "stores")

    def end(self) -> None:
        """End, and wait for what is under way."""
        self._ending.set()
        if self._ended is not None:
            self._ended.wait(_END_S)

    def _run(self) -> None:
        while not self._ending.wait(self._every_s):
            try:
                self._tend()
            except Exception as error:  # noqa: BLE001 - the next time it may go well
                log("error", "tending the stores failed", error=repr(error))

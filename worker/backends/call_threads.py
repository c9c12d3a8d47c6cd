"""Threads that run calls in a device's process: one that is free, else another, up to as many as there may be.

The standard library's pool does the same, and imports what takes a tenth of such a process's start.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

from worker.core.errors import OutOfMemoryError
from worker.core.shortages import patiently, start_thread
from worker.core.sure_lock import SureLock

_Call = Callable[[], object]


class CallThreads:
    """They end with the process; what they run raises nothing."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = SureLock()
        # All mutable state: calls that a thread which waits takes, one for each such thread at most, those for which
        # there was none, how many threads there are, and how many wait without a call on its way to them.
        self._handed: SimpleQueue[_Call] = SimpleQueue()
        self._waiting: deque[_Call] = deque()
        self._count = 0
        self._idle = 0

    def submit(self, run: Callable[..., object], *arguments: object) -> None:
        """Have a call run, as soon as a thread is free. OutOfMemoryError, and it never runs, where no thread can be had."""
        call = partial(run, *arguments)
        with self._lock:
            if self._idle:
                self._handed.put(call)
                self._idle -= 1
                return
            if self._count >= self._most:
                self._waiting.append(call)
                return
            self._count += 1
        try:
            start_thread(partial(self._run, call), "device-call")
        except OutOfMemoryError:
            with self._lock:
                self._count -= 1
                if not self._count:
                    raise
                self._waiting.append(call)  # one of the others has it when it is done
                self._hand_on()

    def _run(self, call: _Call) -> None:
        while True:
            call()
            del call  # and what it was called with
            with self._lock:
                self._idle += 1
                patiently(self._hand_on)
            call = self._handed.get()

    def _hand_on(self) -> None:
        """Give what waits to a thread that does; the lock is held."""
        while self._idle and self._waiting:
            self._handed.put(self._waiting[0])
            self._waiting.popleft()
            self._idle -= 1

"""Threads that run calls in a device's process: one that is free, else another, up to as many as there may be.

The standard library's pool does the same, and imports what takes a tenth of such a process's start.
"""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Semaphore, Thread
from typing import Any


class CallThreads:
    """For one thread that hands calls over. They end with the process; what they run raises nothing."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] = SimpleQueue()
        self._free = Semaphore(0)
        # All mutable state besides: how many there are.
        self._count = 0

    def submit(self, run: Callable[..., object], *arguments: Any) -> None:
        """Have a call run, as soon as a thread is free. RuntimeError or MemoryError where the first can't be started."""
        self._calls.put((run, arguments))
        if not self._free.acquire(blocking=False) and self._count < self._most:
            Thread(target=self._run, name=f"call-{self._count}", daemon=True).start()
            self._count += 1

    def _run(self) -> None:
        while True:
            try:
                run, arguments = self._calls.get_nowait()
            except Empty:
                self._free.release()
                run, arguments = self._calls.get()
            run(*arguments)

"""Threads that run jobs: lanes of them, so that what is slow in one holds up nothing in another."""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from worker.core.errors import OutOfMemoryError
from worker.core.shortages import start_thread
from worker.stream.lanes import Job

THREADS_MAX = 4
"""Jobs of one lane that run side by side."""
_TRIES = 100


class ThreadLane:
    """Runs the jobs put into it, in order. Its first thread is made with it, more as they find work.

    OutOfMemoryError where there is no thread for a new lane; later ones it does without.
    """

    def __init__(self, name: str, work_off: Callable[[Job], None], threads_max: int = THREADS_MAX) -> None:
        self.name = name
        self._work_off = work_off
        self._threads_max = threads_max
        self._changed = threading.Condition(threading.Lock())
        # All mutable state.
        self._ready = deque[Job]()
        self._idle = 0
        self._threads = 0
        self._grow()

    def put(self, job: Job) -> None:
        """Take a job over, at once. It can be put again where that failed half-way."""
        with self._changed:
            if not job.queued:
                self._ready.append(job)
                job.queued = True
            if self._idle < len(self._ready) and self._threads < self._threads_max:
                with suppress(OutOfMemoryError):
                    self._grow()
            self._changed.notify()

    def discard(self, job: Job) -> None:
        """Let go of a job that was withdrawn."""
        with self._changed, suppress(ValueError):
            self._ready.remove(job)

    def _grow(self) -> None:
        start_thread(self._serve, f"{self.name}-{self._threads + 1}")
        self._threads += 1

    def _serve(self) -> None:
        job = None
        while True:
            with suppress(MemoryError):
                job = None
                job = self._take()
            tries = 0
            # What is left half-way by a shortage of memory is done again: a job must not keep its claims.
            while job is not None and tries < _TRIES:
                with suppress(BaseException):
                    self._work_off(job)
                    break
                tries += 1

    def _take(self) -> Job:
        with self._changed:
            while not self._ready:
                self._idle += 1
                try:
                    self._changed.wait()
                finally:
                    self._idle -= 1
            return self._ready.popleft()


class ThreadLanes:
    """A lane for each set of devices, one for plugins, one for control actions. Made when first named."""

    def __init__(self, work_off: Callable[[Job], None]) -> None:
        self._work_off = work_off
        self._lock = threading.Lock()
        # All mutable state.
        self._lanes: dict[str, ThreadLane] = {}

    def lane(self, name: str) -> ThreadLane:
        """Return a lane. OutOfMemoryError where there is no thread for a new one."""
        lane = self._lanes.get(name)
        if lane is None:
            with self._lock:
                lane = self._lanes.get(name)
                if lane is None:
                    lane = self._lanes[name] = ThreadLane(name, self._work_off)
        return lane

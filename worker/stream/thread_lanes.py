"""Threads that run jobs: lanes of them, so that what is slow in one holds up nothing in another."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

from worker.core.errors import OutOfMemoryError
from worker.core.records import HOST
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureLock
from worker.stream.lanes import Job
from worker.stream.work import Work

PLUGINS, CONTROL, OTHERS = "plugins", "control", "others"
"""Lanes besides those of devices."""
BRIEF = " background"
"""Ends the name of a device's second lane, for what the worker does by itself, and for what frees memory."""
THREADS_MAX = 4
"""Jobs of one lane that run side by side."""
Devices = Callable[[], tuple[str, ...]]
"""Returns which claims name devices."""
_TRIES = 100


class ThreadLane:
    """Runs the jobs put into it, in order. Its first thread is made with it, more as they find work.

    OutOfMemoryError where there is no thread for a new lane; later ones it does without.
    """

    def __init__(self, name: str, work_off: Callable[[Job], None], threads_max: int = THREADS_MAX) -> None:
        self.name = name
        self._work_off = work_off
        self._threads_max = threads_max
        self._lock = SureLock()
        self._tokens = SimpleQueue[None]()
        """One for each job that was put: waiting for it takes no memory, so that it can't fail."""
        # All mutable state.
        self._ready = deque[Job]()
        self._threads: list[list[bool]] = []
        """Of each thread whether it waits for a job. Only itself assigns to it."""
        self._grow()

    def put(self, job: Job) -> None:
        """Take a job over, at once. It can be put again where that failed half-way."""
        with self._lock:
            if not job.queued:
                self._ready.append(job)
                job.queued = True
            idle = sum(waits for (waits,) in self._threads)
            if idle < len(self._ready) and len(self._threads) < self._threads_max:
                with suppress(OutOfMemoryError):  # it waits for those there are
                    self._grow()
            self._tokens.put(None)

    def discard(self, job: Job) -> None:
        """Let go of a job that was withdrawn."""
        with self._lock, suppress(ValueError):
            self._ready.remove(job)

    def _grow(self) -> None:
        waits = [True]
        start_thread(lambda: self._serve(waits), f"{self.name}-{len(self._threads) + 1}")
        self._threads.append(waits)

    def _serve(self, waits: list[bool]) -> None:
        """Work jobs off. What is left half-way by a shortage of memory is done again: no job may keep its claims."""
        job: Job | None = None
        tries = 0
        while True:
            try:
                if job is None:
                    tries = 0
                    if not self._ready:
                        waits[0] = True
                        self._tokens.get()
                    waits[0] = False
                    job = self._ready.popleft()
                tries += 1
                self._work_off(job)
                job = None
            except BaseException:  # noqa: BLE001 - a thread must not end; IndexError where another was faster
                if tries > _TRIES:
                    job = None


class ThreadLanes:
    """A lane for each set of devices, one for plugins, one for control actions. Made when first named."""

    def __init__(
        self, work_off: Callable[[Job], None], devices: Devices, threads_max: int = THREADS_MAX
    ) -> None:
        self._work_off = work_off
        self._devices = devices
        self._threads_max = threads_max
        self._lock = SureLock()
        # All mutable state.
        self._lanes: dict[str, ThreadLane] = {}

    def lane(self, name: str) -> ThreadLane:
        """Return a lane. OutOfMemoryError where there is no thread for a new one."""
        lane = self._lanes.get(name)
        if lane is None:
            with self._lock:
                lane = self._lanes.get(name)
                if lane is None:
                    lane = self._lanes[name] = ThreadLane(name, self._work_off, self._threads_max)
        return lane

    def lane_of(self, work: Work, *, brief: bool) -> ThreadLane:
        """Return the lane that work runs on: what may wait for one device holds up no other. Raises as ``lane`` does."""
        if work.control:
            return self.lane(CONTROL)
        if work.plugin:
            return self.lane(PLUGINS)
        devices = {claim.key for claim in work.claims}.intersection(self._devices())
        # The machine's own memory is never what is slow about work that also needs another device.
        slow = sorted(devices - {HOST}) or sorted(devices)
        return self.lane((" ".join(slow) or OTHERS) + (BRIEF if brief else ""))

"""What this process and those that it started take of the machine's memory."""

import itertools
import os
import time

import psutil

from worker.core.shortages import with_reserve
from worker.telemetry.process_groups import text_of

_LOOKED_FOR_NS = 250_000_000
"""Processes that this one started are looked for again after this, for that costs as much as all other figures of the
system together; and at once where one was started by the worker itself, or has ended."""

_starts = itertools.count(1)
_started = 0


def note_start() -> None:
    """Note that this process has started another: whoever counts them looks for it at once."""
    global _started  # noqa: PLW0603 - as the processes themselves, it is this process's, and no object's
    _started = next(_starts)


class ProcessMemory:
    """Resident bytes: pages that processes share, such as libraries, count in each of them."""

    def __init__(self) -> None:
        # All mutable state: the processes that this one started, as of when, and of which start.
        self._below: tuple[psutil.Process, ...] = ()
        self._looked_ns: int | None = None
        self._looked_after = 0
        try:
            self._process: psutil.Process | None = psutil.Process()
        except psutil.Error:  # no /proc, or one that hides this process
            self._process = None

    def resident_bytes(self) -> int | None:
        """Return what this process takes; None where the system does not say."""
        return None if self._process is None else _resident_bytes(self._process)

    def child_resident_bytes(self) -> int | None:
        """Return what all that descend from this process take now; None where the system does not say."""
        if self._process is None:
            return None
        started, now = _started, time.monotonic_ns()
        recent = self._looked_ns is not None and now - self._looked_ns < _LOOKED_FOR_NS
        figures = [_resident_bytes(child) for child in self._below]
        if not recent or started != self._looked_after or None in figures:
            try:
                self._below = self._find(self._process)
            except (psutil.Error, OSError):
                return None
            self._looked_ns, self._looked_after = now, started
            figures = [_resident_bytes(child) for child in self._below]
        return sum(each or 0 for each in figures)

    def _find(self, process: psutil.Process) -> tuple[psutil.Process, ...]:
        if _children(process.pid) is None:  # not Linux: reads all processes there are, some milliseconds
            return tuple(process.children(recursive=True))
        known = {each.pid: each for each in self._below if each.is_running()}
        return tuple(known.get(pid) or psutil.Process(pid) for pid in _descendants(process.pid))


def _descendants(pid: int) -> list[int]:
    below = _children(pid) or []
    return below + [each for child in below for each in _descendants(child)]


def _children(pid: int) -> list[int] | None:
    """Return a process's children by what Linux says of each of its threads, 10 µs each; None elsewhere."""
    try:
        threads = with_reserve(lambda: os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208 - names are all there is to see
    except OSError:
        return None
    if not os.path.exists(f"/proc/{pid}/task/{pid}/children"):  # noqa: PTH110 - a kernel built without it
        return None
    return [
        int(each) for thread in threads for each in text_of(f"/proc/{pid}/task/{thread}/children").split()
    ]


def _resident_bytes(process: psutil.Process) -> int | None:
    try:
        return int(with_reserve(process.memory_info).rss)
    except (psutil.Error, OSError):  # it ended just now
        return None

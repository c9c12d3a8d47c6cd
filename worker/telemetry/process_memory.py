"""What this process and those that it started take of the machine's memory."""

import os

import psutil

from worker.telemetry.process_groups import text_of


class ProcessMemory:
    """Resident bytes: pages that processes share, such as libraries, count in each of them."""

    def __init__(self) -> None:
        try:
            self._process: psutil.Process | None = psutil.Process()
        except psutil.Error:  # no /proc, or one that hides this process
            self._process = None

    def resident_bytes(self) -> int | None:
        """Return what this process takes; None where the system does not say."""
        return None if self._process is None else _resident_bytes(self._process)

    def child_resident_bytes(self) -> int | None:
        """Return what all that descend from this process take; None where the system does not say."""
        if self._process is None:
            return None
        try:
            if (
                _children(self._process.pid) is None
            ):  # not Linux: reads all processes there are, some milliseconds
                found = self._process.children(recursive=True)
            else:
                found = [psutil.Process(pid) for pid in _descendants(self._process.pid)]
        except (psutil.Error, OSError):
            return None
        return sum(_resident_bytes(child) or 0 for child in found)


def _descendants(pid: int) -> list[int]:
    below = _children(pid) or []
    return below + [each for child in below for each in _descendants(child)]


def _children(pid: int) -> list[int] | None:
    """Return a process's children by what Linux says of each of its threads, 10 µs each; None elsewhere."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - names are all there is to see
    except OSError:
        return None
    if not os.path.exists(f"/proc/{pid}/task/{pid}/children"):  # noqa: PTH110 - a kernel built without it
        return None
    return [
        int(each) for thread in threads for each in text_of(f"/proc/{pid}/task/{thread}/children").split()
    ]


def _resident_bytes(process: psutil.Process) -> int | None:
    try:
        return int(process.memory_info().rss)
    except (psutil.Error, OSError):  # it ended just now
        return None

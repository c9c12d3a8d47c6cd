"""The machine's memory and this process's share, from every source that limits what can still be had."""

from collections.abc import Callable
from typing import Final

import psutil

from protocol.record import Record
from protocol.vocabulary import Source
from worker.telemetry.cgroup import CgroupMemory
from worker.telemetry.commit import commit_headroom_bytes

GIB: Final = 2**30


class SystemReading(Record):
    """The machine at one moment. Bytes; None where it can't be told."""

    total_bytes: int | None
    available_bytes: int | None
    """What the system could give without swapping, all processes seen."""
    process_rss_bytes: int | None
    budget_bytes: int | None
    """The smaller of the machine's memory and the cgroup's limit."""
    budget_source: Source | None
    free_bytes: int | None
    """What this process could still get: the smallest of all sources."""

    @property
    def used_bytes(self) -> int | None:
        """Bytes in use by all processes."""
        if self.total_bytes is None or self.available_bytes is None:
            return None
        return self.total_bytes - self.available_bytes


class SystemMemory:
    """Reads the live machine. A reading takes about 0.1 ms."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._cgroup = CgroupMemory.of_this_process()

    def notes(self) -> tuple[str, ...]:
        """Say, for people, which limits were found."""
        limit, _ = self._cgroup.read() if self._cgroup is not None else (None, None)
        if limit is not None:
            return (f"a control group limits this process to {limit} bytes",)
        return ("no control group limits this process's memory",)

    def read(self) -> SystemReading:
        """Read everything now."""
        memory = psutil.virtual_memory()
        limit, room = self._cgroup.read() if self._cgroup is not None else (None, None)
        capped = limit is not None and limit < memory.total
        rooms = (memory.available, room, commit_headroom_bytes())
        return SystemReading(
            total_bytes=memory.total,
            available_bytes=memory.available,
            process_rss_bytes=self._process.memory_info().rss,
            budget_bytes=limit if capped else memory.total,
            budget_source=Source.CGROUP if capped else Source.OS,
            free_bytes=max(0, min(value for value in rooms if value is not None)),
        )


class FixedSystemMemory:
    """A machine of 16 GiB with half of it free, for ``--deterministic``: the same answer everywhere.

    It notices what the worker takes, as a real one does.
    """

    def __init__(self) -> None:
        self.held_bytes: Callable[[], int] = lambda: 0
        """Touched by the worker: live and kept for reuse."""

    def notes(self) -> tuple[str, ...]:
        """Say that it is made up."""
        return ("the machine's figures are made up: --deterministic",)

    def read(self) -> SystemReading:
        """Return the made-up machine."""
        held = self.held_bytes()
        free = max(0, 8 * GIB - held)
        return SystemReading(16 * GIB, free, 64 * 2**20 + held, 16 * GIB, Source.OS, free)

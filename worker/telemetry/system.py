"""The machine's memory and this process's share, from every source that limits what can still be had."""

import time
from collections.abc import Callable
from typing import Final

import psutil

from protocol.record import Record
from protocol.vocabulary import Source
from worker.core.records import Gauge, GaugeKind
from worker.telemetry.cgroup import CgroupMemory
from worker.telemetry.commit import commitments
from worker.telemetry.low_memory import LowMemoryNotification
from worker.telemetry.stalls import MemoryStalls

GIB: Final = 2**30

_SLOW_GAUGES_NS = 250_000_000
"""Stalls and swap are read again after this: the kernel averages over seconds, and reading them costs as much
as all the rest."""


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
    gauges: tuple[Gauge, ...] = ()
    """Every sign of pressure by itself."""

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
        self._stalls = MemoryStalls()
        self._notification = LowMemoryNotification()
        # All mutable state: what is read more rarely, and when it was.
        self._slow_gauges: tuple[Gauge, ...] = ()
        self._slow_read_ns: int | None = None

    def notes(self) -> tuple[str, ...]:
        """Say, for people, which limits and signs of pressure were found."""
        limit, _ = self._cgroup.read() if self._cgroup is not None else (None, None)
        said = "no control group limits this process's memory"
        if limit is not None:
            said = f"a control group limits this process to {limit} bytes"
        names = ", ".join(gauge.name for gauge in self.read().gauges)
        return (said, f"signs of pressure besides the budget: {names}")

    def read(self) -> SystemReading:
        """Read everything now."""
        memory = psutil.virtual_memory()
        limit, room = self._cgroup.read() if self._cgroup is not None else (None, None)
        capped = limit is not None and limit < memory.total
        promises = commitments()
        rooms = (memory.available, room, *(each.room_bytes for each in promises))
        gauges = [_used("machine", memory.total, memory.available, Source.OS)]
        if limit is not None and room is not None:
            gauges.append(_used("cgroup", limit, room, Source.CGROUP))
        gauges += [_used(each.name, each.limit_bytes, each.room_bytes, Source.OS) for each in promises]
        return SystemReading(
            total_bytes=memory.total,
            available_bytes=memory.available,
            process_rss_bytes=self._process.memory_info().rss,
            budget_bytes=limit if capped else memory.total,
            budget_source=Source.CGROUP if capped else Source.OS,
            free_bytes=max(0, min(value for value in rooms if value is not None)),
            gauges=(*gauges, *self._slow()),
        )

    def _slow(self) -> tuple[Gauge, ...]:
        now = time.monotonic_ns()
        if self._slow_read_ns is None or now - self._slow_read_ns >= _SLOW_GAUGES_NS:
            self._slow_gauges = (*self._stalls.gauges(), *_swap(), *self._notification.gauges())
            self._slow_read_ns = now
        return self._slow_gauges


def _used(name: str, limit: int, room: int, source: Source) -> Gauge:
    share = 1 - min(1.0, room / limit) if limit else 1.0
    return Gauge(f"{name}_used_percentage", round(100 * share, 3), source)


def _swap() -> tuple[Gauge, ...]:
    """Read how full the swap is; nothing where there is none."""
    try:
        swap = psutil.swap_memory()
    except (OSError, RuntimeError, RuntimeWarning):  # a system that hides its counters
        return ()
    if not swap.total:
        return ()
    value = round(100 * swap.used / swap.total, 3)
    return (Gauge("swap_used_percentage", value, Source.OS, GaugeKind.SWAP_USED),)


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

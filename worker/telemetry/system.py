"""The machine's memory and this process's share, from every source that limits what can still be had."""

import os
import sys
import time
from collections.abc import Callable
from operator import itemgetter
from typing import Final

import psutil

from protocol.record import Record
from protocol.vocabulary import Source
from worker.core.records import Signal, SignalKind
from worker.core.shortages import with_reserve
from worker.telemetry.cgroup import CgroupMemory
from worker.telemetry.commit import commitments
from worker.telemetry.low_memory import LowMemoryNotification
from worker.telemetry.page_lists import page_list_bytes
from worker.telemetry.process_memory import ProcessMemory
from worker.telemetry.stalls import MemoryStalls

GIB: Final = 2**30

_SLOW_SIGNALS_NS = 250_000_000
"""Stalls and swap are read again after this: the kernel averages over seconds."""


class SystemReading(Record):
    """The machine at one moment. Bytes; None where it can't be told."""

    total_bytes: int | None
    available_bytes: int | None
    """What the system could give without swapping, all processes seen."""
    process_rss_bytes: int | None
    budget_bytes: int | None
    """The smallest of the machine's memory, the control groups' limits and this process's own."""
    budget_source: Source | None
    free_bytes: int | None
    """What this process could still get: the smallest of all sources."""
    signals: tuple[Signal, ...] = ()
    """Every signal of pressure by itself."""
    child_process_bytes: int | None = None
    """What the processes take that this one started."""

    @property
    def used_bytes(self) -> int | None:
        """Bytes in use by all processes."""
        if self.total_bytes is None or self.available_bytes is None:
            return None
        return self.total_bytes - self.available_bytes


class SystemMemory:
    """Reads the live machine. A reading takes 0.1 to 0.2 ms."""

    def __init__(self) -> None:
        self._process = ProcessMemory()
        self._cgroup = CgroupMemory()
        self._stalls = MemoryStalls()
        self._notification = LowMemoryNotification()
        # All mutable state: what is read more rarely, and when it was.
        self._slow_signals: tuple[Signal, ...] = ()
        self._slow_read_ns: int | None = None

    def notes(self) -> tuple[str, ...]:
        """Say, for people, which limits and signals of pressure were found."""
        limit, _ = self._cgroup.read()
        said = "no control group limits this process's memory"
        if self._cgroup.is_hidden():
            said = "whether a control group limits this process's memory is unknown: its group is not mounted in /sys/fs/cgroup"
        if limit is not None:
            said = f"a control group limits this process to {limit} bytes"
        reading = self.read()
        names = ", ".join(signal.name for signal in reading.signals)
        notes = [said, f"signs of pressure besides the budget: {names}"]
        notes += [f"{each.name} limits this process to {each.limit_bytes} bytes" for each in commitments()]
        if reading.process_rss_bytes is None:
            notes.append(
                "what this process takes is unknown, and so are control groups: /proc does not say;"
                " mount it (container runtimes do unless told otherwise)"
            )
        return tuple(notes)

    def read(self) -> SystemReading:
        """Read everything now."""
        total, available = _machine()
        group_limit, group_headroom = self._cgroup.read()
        sources = [
            ("machine", total, available, Source.OS),
            ("cgroup", group_limit, group_headroom, Source.CGROUP),
        ]
        sources += [(each.name, each.limit_bytes, each.headroom_bytes, Source.OS) for each in commitments()]
        limits = [(limit, source) for _, limit, _, source in sources if limit is not None]
        budget, budget_source = min(limits, key=itemgetter(0), default=(None, None))
        free = min((headroom for _, _, headroom, _ in sources if headroom is not None), default=None)
        signals = [
            _used(name, limit, headroom, source)
            for name, limit, headroom, source in sources
            if limit is not None and headroom is not None
        ]
        return SystemReading(
            total_bytes=total,
            available_bytes=available,
            process_rss_bytes=self._process.resident_bytes(),
            budget_bytes=budget,
            budget_source=budget_source,
            free_bytes=free,
            signals=(*signals, *self._slow()),
            child_process_bytes=self._process.child_resident_bytes(),
        )

    def process_bytes(self) -> int | None:
        """Return what this process takes, alone: a third of a reading's time or less."""
        return self._process.resident_bytes()

    def _slow(self) -> tuple[Signal, ...]:
        now = time.monotonic_ns()
        if self._slow_read_ns is None or now - self._slow_read_ns >= _SLOW_SIGNALS_NS:
            self._slow_signals = (*self._stalls.signals(), *_swap(), *self._notification.signals())
            self._slow_read_ns = now
        return self._slow_signals


def _machine() -> tuple[int | None, int | None]:
    """Return the machine's memory, and what of it could be had without swapping."""
    try:
        memory = with_reserve(psutil.virtual_memory)
    except (OSError, KeyError, ValueError, RuntimeWarning):  # no /proc/meminfo, or not all of it
        if sys.platform == "win32":
            return None, None
        # Without the page cache, which the kernel would give back: it does not say how much that is.
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    kept = page_list_bytes(memory.total) if sys.platform == "linux" else 0
    return memory.total, min(memory.total, memory.available + kept)


def _used(name: str, limit: int, headroom: int, source: Source) -> Signal:
    share = 1 - min(1.0, headroom / limit) if limit else 1.0
    return Signal(f"{name}_used_percentage", round(100 * share, 3), source)


def _swap() -> tuple[Signal, ...]:
    """Read how full the swap is; nothing where there is none."""
    try:
        swap = with_reserve(psutil.swap_memory)
    except (OSError, RuntimeError, RuntimeWarning):  # a system that hides its counters
        return ()
    if not swap.total:
        return ()
    value = round(100 * swap.used / swap.total, 3)
    return (Signal("swap_used_percentage", value, Source.OS, SignalKind.SWAP_USED),)


class FixedSystemMemory:
    """A machine of 16 GiB with half of it free, for ``--deterministic``: the same answer everywhere.

    It notices what the worker takes, as a real one does.
    """

    def __init__(self) -> None:
        # All mutable state: who says what the worker holds of the machine, live and kept for reuse.
        self._holding: tuple[Callable[[], int], ...] = ()

    def count(self, held_bytes: Callable[[], int]) -> None:
        """Have bytes noticed that are held from now on."""
        self._holding = (*self._holding, held_bytes)

    def notes(self) -> tuple[str, ...]:
        """Say that it is made up."""
        return ("the machine's figures are made up: --deterministic",)

    def process_bytes(self) -> int | None:
        """Return what the made-up process takes."""
        return self.read().process_rss_bytes

    def read(self) -> SystemReading:
        """Return the made-up machine."""
        held = sum(held_bytes() for held_bytes in self._holding)
        free = max(0, 8 * GIB - held)
        return SystemReading(
            16 * GIB, free, 64 * 2**20 + held, 16 * GIB, Source.OS, free, child_process_bytes=0
        )

"""Which adapter ``privateuseone:i`` is, and its figures from whichever source answers."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from protocol.record import Record
from protocol.vocabulary import Source
from worker.backends.base import HeldByProcess
from worker.backends.demotion import demotion_signal
from worker.core.records import Signal
from worker.telemetry import dxcore, dxgi, pdh

VISIBLE = "DML_VISIBLE_DEVICES"

_NUMBER = re.compile(r"-?[0-9]{1,9}")


class AdapterReading(Record):
    """One adapter at one moment. Bytes; None where no source answers."""

    total_bytes: int | None
    budget_bytes: int | None
    budget_source: Source | None
    process_used_bytes: int | None
    used_bytes: int | None
    total_source: Source | None = None
    used_source: Source | None = None
    process_used_source: Source | None = None
    process_non_local_bytes: int | None = None
    """What this one has there: moved for want of headroom, and what copies go through."""
    process_demoted_bytes: int | None = None
    """Part of that which was moved there."""

    @property
    def headroom_bytes(self) -> int | None:
        """What the system leaves this process: of its grant, and of what all processes hold.

        What was moved to the system's memory would take its place again first.
        """
        headrooms = []
        if self.budget_bytes is not None and self.process_used_bytes is not None:
            held = self.process_used_bytes + (self.process_demoted_bytes or 0)
            headrooms.append(self.budget_bytes - held)
        if self.total_bytes is not None and self.used_bytes is not None:
            headrooms.append(self.total_bytes - self.used_bytes)
        return max(0, min(headrooms)) if headrooms else None

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Say that this process holds more than the system grants it, for which others wait whatever is free in it.

        And how much of what it holds the system has moved away.
        """
        budget, used, source = self.budget_bytes, self.process_used_bytes, self.budget_source
        if used is None or self.process_used_source is None:
            return ()
        over = budget is not None and used > budget and source is not None
        return (
            *([Signal("process_budget_used_percentage", 100.0, source)] if over and source else []),
            *demotion_signal(used, self.process_demoted_bytes, self.process_used_source),
        )

    @property
    def headroom_anew_bytes(self) -> int | None:
        """What the system would leave a new process in place of this one."""
        mine, used = self.process_used_bytes or 0, self.used_bytes
        without = None if used is None else max(0, used - mine)
        anew = replace(self, process_used_bytes=0, process_demoted_bytes=0, used_bytes=without)
        return anew.headroom_bytes


class Demotion:
    """Tells what was moved to the system's memory for want of headroom from what lies there anyway.

    What copies go through is in the system's memory, too. While all that this process is known to hold is in the
    adapter's own memory, nothing was moved, and what it has in the system's is that. Not thread-safe.
    """

    def __init__(self) -> None:
        # All mutable state: bytes in the system's memory when nothing was moved.
        self._staging_bytes = 0

    def judge(self, reading: AdapterReading, held_bytes: int) -> AdapterReading:
        """Add what was moved. ``held_bytes``: of blocks, live and cached, without what others in the process hold."""
        used, beside = reading.process_used_bytes, reading.process_non_local_bytes
        if used is None or beside is None:
            return reading
        if used >= held_bytes:
            self._staging_bytes = beside
        return replace(reading, process_demoted_bytes=max(0, beside - self._staging_bytes))


UNKNOWN = AdapterReading(None, None, None, None, None)


def read_adapter(adapter: dxcore.Adapter | None) -> AdapterReading:
    """Read an adapter now: DXCore, then DXGI for the grant and PDH for all processes."""
    if adapter is None:
        return UNKNOWN
    budget, source = adapter.budget(), Source.DXCORE
    there = adapter.budget(dxcore.Segment.NON_LOCAL)
    process_non_local = None if there is None else there.usage_bytes
    if budget is None:
        with suppress(OSError):
            found = dxgi.video_memory(adapter.luid)
            if found.budget_bytes is not None and found.usage_bytes is not None:
                budget, source = dxcore.Budget(found.budget_bytes, found.usage_bytes), Source.DXGI
                process_non_local = found.non_local_bytes
    if budget is None:
        process, process_source = adapter.process_used_bytes(os.getpid()), Source.DXCORE
    else:
        process, process_source = budget.usage_bytes, source
    used, used_source = adapter.used_bytes(), Source.DXCORE
    if used is None:
        used, used_source = pdh.adapter_used_bytes(adapter.luid), Source.PDH
    return AdapterReading(
        total_bytes=adapter.total_bytes,
        budget_bytes=None if budget is None else budget.budget_bytes,
        budget_source=None if budget is None else source,
        process_used_bytes=process,
        used_bytes=used,
        total_source=Source.DXCORE,
        used_source=None if used is None else used_source,
        process_used_source=None if process is None else process_source,
        process_non_local_bytes=process_non_local,
    )


def non_local_bytes(adapter: dxcore.Adapter | None) -> int | None:
    """Ask what all processes have of an adapter in the system's memory instead: for its figures, not for each block."""
    if adapter is None or adapter.is_integrated:  # all of its memory is the system's
        return None
    found = adapter.used_bytes(dxcore.Segment.NON_LOCAL)
    return pdh.adapter_used_bytes(adapter.luid, pdh.ADAPTER_SHARED) if found is None else found


def processes_of(adapter: dxcore.Adapter | None, pids: Iterable[int]) -> HeldByProcess:
    """Return what each process holds of an adapter's own memory; None where no source says.

    DXCore answers for one process at a time, so it is asked about ``pids``; PDH lists all.
    """
    if adapter is None:
        return None
    if adapter.used_bytes() is None:
        return dict(pdh.processes(adapter.luid)) or None
    asked = ((pid, adapter.process_used_bytes(pid)) for pid in pids)
    return {pid: used for pid, used in asked if used}


def visible_indices(environment: Mapping[str, str] = os.environ) -> frozenset[int] | None:
    """Return the adapters that ``DML_VISIBLE_DEVICES`` leaves; None for all.

    As the library reads it: an item counts only if a comma follows it, and what is no number is skipped.
    """
    items = environment.get(VISIBLE, "").split(",")[:-1]
    numbers = {int(item) for item in items if _NUMBER.fullmatch(item.strip())}
    return frozenset(numbers) or None


def join(
    adapters: tuple[dxcore.Adapter, ...],
    count: int,
    name_of: Callable[[int], str],
    environment: Mapping[str, str] = os.environ,
) -> tuple[dxcore.Adapter | None, ...]:
    """Return the adapter behind each of the library's ``count`` devices; None where that can't be told.

    1. All are visible: the library's order is DXCore's.
    2. Some are: it has them in no documented order (a hash table's), so their names decide. Names that are
       not unique decide nothing.
    3. The counts differ: a device was refused or came and went, and nothing is certain.
    """
    chosen = visible_indices(environment)
    left = tuple(adapter for n, adapter in enumerate(adapters) if chosen is None or n in chosen)
    if len(left) != count:  # 3
        return (None,) * count
    if chosen is None or count <= 1:  # 1
        return left
    by_name = {adapter.name: adapter for adapter in left}  # 2
    if len(by_name) != count:
        return (None,) * count
    return tuple(by_name.get(name_of(index)) for index in range(count))

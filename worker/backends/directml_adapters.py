"""Which adapter ``privateuseone:i`` is, and its figures from whichever source answers."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from protocol.record import Record
from protocol.vocabulary import Source
from worker.core.records import Signal
from worker.telemetry import dxcore, dxgi, pdh

VISIBLE = "DML_VISIBLE_DEVICES"


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

    @property
    def headroom_bytes(self) -> int | None:
        """What the system leaves this process: of its grant, and of what all processes hold."""
        headrooms = []
        if self.budget_bytes is not None and self.process_used_bytes is not None:
            headrooms.append(self.budget_bytes - self.process_used_bytes)
        if self.total_bytes is not None and self.used_bytes is not None:
            headrooms.append(self.total_bytes - self.used_bytes)
        return max(0, min(headrooms)) if headrooms else None

    @property
    def over_budget(self) -> tuple[Signal, ...]:
        """Say that this process holds more than the system grants it: others wait for that, whatever is free in it."""
        budget, used, source = self.budget_bytes, self.process_used_bytes, self.budget_source
        if budget is None or used is None or source is None or used <= budget:
            return ()
        return (Signal("process_budget_used_percentage", 100.0, source),)

    @property
    def headroom_anew_bytes(self) -> int | None:
        """What the system would leave a new process in place of this one."""
        mine, used = self.process_used_bytes or 0, self.used_bytes
        without = None if used is None else max(0, used - mine)
        return replace(self, process_used_bytes=0, used_bytes=without).headroom_bytes


UNKNOWN = AdapterReading(None, None, None, None, None)


def read_adapter(adapter: dxcore.Adapter | None) -> AdapterReading:
    """Read an adapter now: DXCore, then DXGI for the grant and PDH for all processes."""
    if adapter is None:
        return UNKNOWN
    budget, source = adapter.budget(), Source.DXCORE
    if budget is None:
        with suppress(OSError):
            found = dxgi.video_memory(adapter.luid)
            if found.budget_bytes is not None and found.usage_bytes is not None:
                budget, source = dxcore.Budget(found.budget_bytes, found.usage_bytes), Source.DXGI
    process, process_source = adapter.process_used_bytes(os.getpid()), Source.DXCORE
    if budget is not None:
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
    )


def visible_indices(environment: Mapping[str, str] = os.environ) -> frozenset[int] | None:
    """Return the adapters that ``DML_VISIBLE_DEVICES`` leaves; None for all.

    As the library reads it: an item counts only if a comma follows it, and what is no number is skipped.
    """
    items = environment.get(VISIBLE, "").split(",")[:-1]
    numbers = {int(item) for item in items if item.strip().lstrip("-").isdigit()}
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

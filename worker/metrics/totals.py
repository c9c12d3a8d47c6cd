"""What happened since the start: figures that only ever grow, as collectors of metrics want them."""

from protocol.record import Record
from worker.core.records import OwnerFlow
from worker.metrics.histogram import Counts


class ActionTotals(Record):
    """How an action went since the start: figures that only ever grow."""

    action: str
    counts: Counts
    """Microseconds, in the buckets of ``histogram``."""
    errors: int
    total_us: int


class DeviceTotals(Record):
    """What happened on a device since the start, and what its owners have."""

    device_id: str
    owners: tuple[OwnerFlow, ...]
    made_count: int
    made_bytes: int
    evictions: int
    expirations: int


class GarbageTotals(Record):
    """What Python's collector did in the worker's process."""

    collections: tuple[int, ...]
    """Of each generation, the youngest first."""
    paused_seconds: float
    longest_pause_seconds: float


class Totals(Record):
    """What happened since the start."""

    version: str
    uptime_seconds: float
    started_seconds: float
    """Since the epoch."""
    devices: tuple[DeviceTotals, ...]
    actions: tuple[ActionTotals, ...]
    garbage: GarbageTotals | None = None
    """None where it is not watched."""

"""What is asked of devices, usage and allocations."""

from protocol.record import Record
from protocol.results.numbers import Bytes, Count, Milliseconds, Percent
from protocol.results.pieces import AllocationRow, Fragmentation, UsageGroup
from protocol.vocabulary import DeviceKind, DeviceState, PressureLevel, Source


class DeviceProcess(Record):
    """A process that holds memory of a device."""

    pid: Count
    name: str | None
    """Of its program; null where the system does not say."""
    bytes: Bytes | None
    """What it holds of the device; null where the driver lists the process without its bytes."""
    ours: bool
    """Whether it is this worker, or a process that it started."""


class DeviceStatus(Record):
    """Where the memory of one device is."""

    device_id: str
    kind: DeviceKind
    name: str
    state: DeviceState
    state_reason: str | None
    age_ms: Milliseconds | None
    """How old the figures are; null where there are none yet."""
    total_bytes: Bytes | None
    total_source: Source | None
    """Whose figure it is, as for the others."""
    budget_bytes: Bytes | None
    """The most that this worker may use: the smallest of all limits."""
    budget_source: Source | None
    """Where the smallest limit comes from."""
    used_bytes: Bytes | None
    """Whole device, every process."""
    used_source: Source | None
    process_used_bytes: Bytes | None
    """This worker, as the operating system or driver sees it."""
    process_used_source: Source | None
    child_process_bytes: Bytes | None
    """On the CPU: what the processes take that this worker started, engines' and devices' among them. Not in
    `process_used_bytes`, but for pages that both have mapped, which count in each (shared allocations that were copied to or from a
    device's process, blocks that are copied there often). One that a plugin started is found within 250 ms."""
    allocated_bytes: Bytes
    """Ledger: live allocations, as asked for."""
    external_bytes: Bytes
    """Ledger: recorded for the host, which holds them."""
    cached_bytes: Bytes
    """Kept for reuse by the runtime, not live."""
    unattributed_bytes: Bytes | None
    """What the process uses beyond what ledger, models and caches explain."""
    available_bytes: Bytes | None
    """Headroom: what one allocation can still get."""
    peak_allocated_bytes: Bytes
    allocation_count: Count
    model_bytes: Bytes
    utilization_percentage: Percent | None
    """Used share of the whole device."""
    pressure_level: PressureLevel
    allocations: tuple[AllocationRow, ...] | None
    usage: tuple[UsageGroup, ...] | None
    fragmentation: Fragmentation | None
    demoted_bytes: Bytes | None = None
    """What every process has of this device in the system's memory instead: moved there for want of headroom, or put
    there by its program. Not in `used_bytes`; null where no source says."""
    process_demoted_bytes: Bytes | None = None
    """Part of this worker's device memory that the system moved to its own: slow until it is back. Not in
    `process_used_bytes`."""
    shared_with: str | None = None
    """The device whose memory this one's is, as `cpu` for integrated GPUs: those bytes are in both figures."""
    processes: tuple[DeviceProcess, ...] | None = None
    """Who else is on the device, the largest first; null where it was not asked for, or no source says."""


class HostStatus(Record):
    """The machine's own memory."""

    total_bytes: Bytes | None
    available_bytes: Bytes | None
    process_rss_bytes: Bytes | None


class GetStatusResult(Record):
    """Where the memory is."""

    devices: tuple[DeviceStatus, ...]
    host: HostStatus
    pressure_level: PressureLevel
    """The worst of the devices'."""
    age_ms: Milliseconds
    """Of the oldest reading in the answer."""
    next: str | None = None
    """Send it as ``after`` for the next page; null on the last, and where no ``limit`` was given."""


class DeviceUsage(Record):
    """Allocated bytes of one device, in groups, and all that adds up to what the process uses of it.

    The groups and ``external_model_bytes`` add up to ``allocated_bytes`` and ``external_bytes``. ``resident_bytes``,
    ``cached_bytes`` and ``unattributed_bytes`` add up to ``process_used_bytes``, where ``unattributed_bytes`` is not 0.
    """

    device_id: str
    allocated_bytes: Bytes
    """Live allocations, as asked for."""
    peak_allocated_bytes: Bytes
    external_bytes: Bytes
    """Recorded for the host and other processes, which hold them."""
    external_model_bytes: Bytes
    """Part of ``external_bytes``: models, which are in no group."""
    model_bytes: Bytes
    resident_bytes: Bytes
    """Part of ``allocated_bytes`` and ``model_bytes`` that takes memory now, as the device rounds it: what nothing
    was written to may take none yet."""
    cached_bytes: Bytes
    """Kept for reuse by the runtime, not live."""
    unattributed_bytes: Bytes | None
    """What the process uses beyond what ledger, models and caches explain; 0 also where they explain more than it uses
    by the system's figure, which is not of the same instant."""
    process_used_bytes: Bytes | None
    """This worker, as the operating system or driver sees it."""
    groups: tuple[UsageGroup, ...]


class GetUsageResult(Record):
    """Allocated bytes by owner, purpose or memory type."""

    devices: tuple[DeviceUsage, ...]


class GetAllocationsResult(Record):
    """A page of allocations."""

    allocations: tuple[AllocationRow, ...]
    next: str | None
    """Send it as ``after`` for the next page; null on the last."""

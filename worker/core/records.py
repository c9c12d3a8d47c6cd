"""What the layers hand to one another. Frozen; sizes in bytes, times in nanoseconds of the worker's clock."""

from collections.abc import Callable, Iterable
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

from protocol.record import Record
from protocol.vocabulary import (
    DeviceKind,
    DeviceState,
    EvictionStrategy,
    Initialize,
    MemoryType,
    PressureLevel,
    Source,
)

if TYPE_CHECKING:
    from protocol.results import (  # 10 ms that a device's process does not need
        DefragmentStep,
        Fragmentation,
        ReleaseStep,
        SharedMemory,
    )

Report = Callable[[int, int], None]
"""Called with (completed bytes, total bytes)."""


def no_report(_completed_bytes: int, _total_bytes: int) -> None:
    """Tell no one how far the work has come."""


HOST = "cpu"
"""The device id of the machine's own memory."""


class DeviceInfo(Record):
    """A device as its backend found it."""

    device_id: str
    kind: DeviceKind
    name: str
    state: DeviceState = DeviceState.AVAILABLE
    state_reason: str | None = None
    displaced: frozenset[str] = frozenset()
    """Blocks whose contents are in host memory until the device has headroom for them; ``state_reason`` says why."""
    shared_with: str | None = None
    """The device whose memory this one's is: what is made here takes headroom of both. None for memory of its own."""


class SignalKind(Enum):
    """How a signal's value is to be read."""

    USED = "used"
    """Percent of something that can be used up."""
    SWAP_USED = "swap_used"
    SOME_STALLED = "some_stalled"
    """Percent of time in which at least one process waited for memory."""
    ALL_STALLED = "all_stalled"
    """Percent of time in which every process waited for memory."""
    DEMOTED = "demoted"
    """Percent of this process's device memory that is in the system's instead."""
    NOTIFIED = "notified"
    """The system's own word: 0 plenty, 1 neither, 2 low."""


class Signal(Record):
    """A signal of pressure beside the headroom, as its source gives it."""

    name: str
    value: float
    source: Source
    kind: SignalKind = SignalKind.USED


class Readings(Record):
    """What a device's own sources say at one moment. None where a source is missing."""

    total_bytes: int | None
    budget_bytes: int | None
    budget_source: Source | None
    used_bytes: int | None
    """Whole device, every process."""
    process_used_bytes: int | None
    free_bytes: int | None
    """What this process can still get, caches given up and untouched promises kept."""
    largest_block_bytes: int | None
    """The most that one allocation can get of it; None where memory is not contiguous."""
    resident_bytes: int
    """Part of the live blocks that really takes memory now."""
    cached_bytes: int
    fragmentation: "Fragmentation | None"
    restart_returns_bytes: int | None = None
    """What a new process in place of the device's gives back, a part of ``cached_bytes``, of which nothing goes
    back otherwise; None where no restart is needed, or none is possible."""
    signals: tuple[Signal, ...] = ()
    total_source: Source | None = None
    used_source: Source | None = None
    process_used_source: Source | None = None
    """Whose figure each of the three is; None where there is none."""
    child_process_bytes: int | None = None
    """What the processes take of it that this one started; None where the system does not say, or they take none."""
    demoted_bytes: int | None = None
    """What every process has of the device in the system's memory instead: moved there for want of headroom, or put
    there. Not in ``used_bytes``."""
    process_demoted_bytes: int | None = None
    """Part of this process's device memory that was moved to the system's. Not in ``process_used_bytes``."""
    stuck_bytes: int = 0
    """What loads hold that were given up and hang: another process in place of the device's gives it back. No part of
    ``resident_bytes``."""

    @property
    def restart_helps(self) -> bool:
        """Whether another process in place of the device's would give something back, or join it."""
        return self.restart_returns_bytes is not None or self.stuck_bytes > 0

    @property
    def process_held_bytes(self) -> int | None:
        """What this process takes, wherever it is by now."""
        used = self.process_used_bytes
        return None if used is None else used + (self.process_demoted_bytes or 0)

    @property
    def owed_bytes(self) -> int:
        """What comes back into what is freed before any of that is headroom: what was moved out of a device that has none.

        Where a device has headroom, nothing waits for it.
        """
        return 0 if self.free_bytes else self.process_demoted_bytes or 0


class HeadroomSample(Record):
    """The headroom of a device at one moment."""

    at_ns: int
    headroom_bytes: int


class LowWaterMark(Record):
    """The least that something took in one window of time."""

    from_ns: int
    bytes: int


class FileRange(Record):
    """A part of an open file."""

    descriptor: int
    """Whoever keeps it makes a copy."""
    start: int
    """To be mapped where it is: a multiple of what the system maps by."""
    size_bytes: int
    identity: tuple[int, ...]
    """What the file was when it was opened (``file_identity``)."""
    path: str
    """Where it was opened. There may be another by now."""


class Footprint(Record):
    """What a model in an engine's process takes, as measured from outside, and as its library says."""

    loaded_bytes: int | None
    """Of the memory that it is counted on, since it was loaded, before any work; None where no source says."""
    working_bytes: int
    """What its process grew by there since."""
    process_bytes: int | None
    """Of the machine's memory, wherever it is counted, before any work."""
    kv_bytes: int | None = None
    kv_bytes_per_token: int | None = None
    shrink_ms: int | None = None
    """What giving the working memory back took the last time."""
    regrow_ms: int | None = None
    """What the first work after that took above the usual: the memory grew again."""
    shrunk_bytes: int = 0
    """How much of it stayed then."""


class Receipt(Record):
    """What giving a model's memory back came to."""

    claimed_bytes: int | None
    """What it was counted with; None where only its owner knows."""
    returned_bytes: int | None
    """What the system or driver shows back; None where it does not say."""
    steps: "tuple[ReleaseStep, ...]" = ()
    """They add up to what was returned."""
    process_bytes: int | None = None
    """What came back besides: what its process, which ended, took itself; None where none ended."""


class Block(Record):
    """What a backend made for an allocation."""

    actual_bytes: int
    shared_memory: "SharedMemory | None" = None


class Defragmented(Record):
    """What a backend's compaction did."""

    moved: int
    returned_bytes: int | None


class Restarted(Record):
    """What a new process in place of a device's old one did."""

    returned_bytes: int | None
    moved: int
    """Blocks that were carried over."""
    displaced: dict[str, str]
    """Why, for each block that stays in host memory until there is headroom for it."""
    steps: "tuple[DefragmentStep, ...]"


class AllocationRequest(Record):
    """What is asked of a device."""

    device_id: str
    size_bytes: int
    memory_type: MemoryType = MemoryType.DEVICE
    initialize: Initialize = Initialize.ZERO
    alignment: int | None = None
    purpose: str | None = None
    owner: str | None = None
    persistent: bool = False
    lease_ns: int | None = None
    overwritten: bool = False
    """Whether all of it is written before anyone reads it: what it holds until then does not matter."""


class Allocation(Record):
    """A row of the ledger."""

    allocation_id: str
    request: AllocationRequest
    block: Block
    created_ns: int
    expires_ns: int | None

    @property
    def device_id(self) -> str:
        """The device it lies on."""
        return self.request.device_id

    @property
    def size_bytes(self) -> int:
        """The bytes asked for, which is what the ledger counts."""
        return self.request.size_bytes

    @property
    def external(self) -> bool:
        """Whether the host holds it and the worker only keeps the record."""
        return self.request.memory_type is MemoryType.EXTERNAL


class Lost(Record):
    """What went with a device."""

    allocations: tuple[Allocation, ...]
    model_ids: tuple[str, ...]


class Reservation(Record):
    """Headroom that is held for an allocation while its device makes it."""

    allocation_id: str
    request: AllocationRequest


class OwnerFlow(Record):
    """An owner's allocations on a device: those that are live, and all that were ever made."""

    owner: str | None
    allocated_bytes: int
    allocation_count: int
    made_bytes: int
    made_count: int


class DecisionKind(StrEnum):
    """What was decided, or asked for, about a model."""

    USE = "use"
    LOAD = "load"
    EVICT = "evict"
    LEASE = "lease"
    """A use lasts until the release."""
    RELEASE = "release"
    KEEP = "keep"
    """A keep-alive or pin was set."""


class EvictionCause(StrEnum):
    """What made a model go."""

    POLICY = "policy"
    """A plan chose it, for another model."""
    IDLE = "idle"
    """It was idle past its keep-alive."""
    ASKED = "asked"
    """A request or an optimization named it, or an allocation needed its memory."""
    LOST = "lost"
    """It went with its device."""


class Decision(Record):
    """A line of the record that a simulation replays."""

    kind: DecisionKind
    model_id: str
    device_id: str
    t_ms: int
    size_bytes: int
    load_ms: int
    capacity_bytes: int | None
    """What models could take on the device then; None where that could not be told yet."""
    reason: str | None = None
    cause: EvictionCause | None = None
    keep_alive_ms: int | None = None
    """None for until evicted."""
    pinned: bool = False


class ModelDemand(Record):
    """What ``memory.model_optimize`` was asked for."""

    target: PressureLevel | float | None = None
    strategy: EvictionStrategy = EvictionStrategy.ADAPTIVE
    max_models: int | None = None
    min_bytes: int | None = None
    forced: bool = False
    excluded: frozenset[str] = frozenset()
    max_time_ms: int | None = None
    dry_run: bool = False


class WayToPlan(Record):
    """One way to do the work, and what it takes."""

    name: str
    required_bytes: int | None
    """None with a model."""
    device_id: str | None
    """None for wherever a model goes."""
    model_id: str | None = None


def sum_if_known(values: Iterable[int | None]) -> int | None:
    """Add up; None as soon as one of them is unknown."""
    found = tuple(values)
    known = [value for value in found if value is not None]
    return sum(known) if len(known) == len(found) else None


def age_order(allocation: Allocation) -> int:
    """Sort key: the number in the id, which is the order of making."""
    return int(allocation.allocation_id.split("-")[1])

"""What several answers are made of."""

from typing import Any

from protocol.record import Record
from protocol.results.numbers import Bytes, Cost, Count, Milliseconds, Percent
from protocol.vocabulary import MemoryType, SharedMemoryKind, UnloadMode


class SharedMemory(Record):
    """What the host can map."""

    path: str
    """Of the file; a section's name, which is opened by that."""
    size_bytes: Bytes
    kind: SharedMemoryKind


class AllocationRow(Record):
    """One live allocation."""

    allocation_id: str
    device_id: str
    memory_type: MemoryType
    size_bytes: Bytes
    """As asked for; what the ledger counts."""
    actual_bytes: Bytes
    """As the device rounds it."""
    owner: str | None
    purpose: str | None
    persistent: bool
    age_ms: Milliseconds
    lease_expires_in_ms: Milliseconds | None
    shared_memory: SharedMemory | None


class UsageGroup(Record):
    """Allocations that share an owner, a purpose or a memory type."""

    key: str | None
    allocated_bytes: Bytes
    peak_bytes: Bytes
    allocation_count: Count


class Fragmentation(Record):
    """How far free memory lies in pieces."""

    free_bytes: Bytes
    largest_free_block_bytes: Bytes
    fragmentation_percentage: Percent
    """Share of the free bytes that lies outside the largest block."""


class Recommendation(Record):
    """An action that can be sent back as it stands."""

    action: str
    data: dict[str, Any]
    expected_freed_bytes: Bytes | None
    cost_ms: Milliseconds | None
    """Of what ``cost_of`` says; null where it was never measured."""
    cost_of: str
    """What takes that long: the action itself, or bringing back what goes by it."""
    reason: str


class ReleaseStep(Record):
    """One thing that was done to give memory back, and what came back by it."""

    step: str
    returned_bytes: Bytes | None
    """By the system's figures, or the driver's; null where they do not say."""


class UnloadedModel(Record):
    """A model that gave memory back, and why: the receipt."""

    model_id: str
    freed_bytes: Bytes
    """What the model was counted with, and is no longer: by the ledger."""
    returned_bytes: Bytes | None
    """What came back of its memory, as the operating system or driver shows before and after; null where neither says.
    More than was claimed where its engine's process has grown since it was last counted."""
    reload_ms: Milliseconds | None
    reason: str
    """Why; and what came back, where that is not what the ledger freed."""
    claimed_bytes: Bytes | None = None
    """What should have come back, the same as ``freed_bytes``; null where only its owner knows."""
    kept_bytes: Bytes | None = None
    """``claimed_bytes`` less ``returned_bytes``, 0 where more came back, or its process ended; null where that was not measured."""
    mode: UnloadMode = UnloadMode.UNLOAD
    """How much of it went: a model that was shrunk is still loaded."""
    steps: tuple[ReleaseStep, ...] = ()
    """What was done, in this order; where all were measured they add up to ``returned_bytes``."""
    process_returned_bytes: Bytes | None = None
    """What came back besides where its engine's process ended: interpreter and library, which are no model's; null
    where no process ended."""


class Kept(Record):
    """Something that stays, and why."""

    id: str
    reason: str


class KeptModel(Record):
    """A model that stays, and why."""

    model_id: str
    reason: str


MOST_KEPT_CONSUMERS = 16
"""So many consumers of which nothing goes are told of, of a device; ``memory.get_consumers`` lists them all."""


class KeptConsumer(Record):
    """A consumer of which nothing goes, and why."""

    consumer_id: str
    kind: str
    price_ms_per_mib: Cost | None
    """Of the next MiB; null where none of it can be had for this."""
    reason: str


class ReleasedMemory(Record):
    """What a consumer gave back, and why it was asked."""

    consumer_id: str
    kind: str
    claimed_bytes: Bytes
    """By its own word."""
    returned_bytes: Bytes | None
    """What the device's readings showed after it; null where they can't tell."""
    cost_ms: Cost | None
    """What rebuilding it takes, by how often it is expected to be needed in ten minutes; null where unknown."""
    reason: str

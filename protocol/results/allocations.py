"""What allocating, leases and transfers answer; an error's body."""

from typing import Any

from protocol.record import Record
from protocol.results.numbers import Bytes, Count, Microseconds, Milliseconds
from protocol.results.pieces import ReleasedMemory, SharedMemory, UnloadedModel
from protocol.vocabulary import ErrorCode, Executed, MemoryType, TransferState


class AllocateResult(Record):
    """Memory that was handed out."""

    allocation_id: str
    device_id: str
    memory_type: MemoryType
    size_bytes: Bytes
    actual_bytes: Bytes
    shared_memory: SharedMemory | None
    available_bytes: Bytes | None
    """After."""
    models_unloaded: tuple[UnloadedModel, ...]
    released: tuple[ReleasedMemory, ...] = ()
    """What other consumers than models gave back for it."""


class DeallocateResult(Record):
    """Memory that was given back."""

    allocation_id: str
    device_id: str
    freed_bytes: Bytes
    returned_bytes: Bytes | None
    """Measured at the operating system or driver."""
    available_bytes: Bytes | None
    """After."""


class RenewLeaseResult(Record):
    """How long the allocation stays now."""

    allocation_id: str
    lease_expires_in_ms: Milliseconds


class ErrorBody(Record):
    """Why a request failed, and what the host may do about it."""

    code: ErrorCode
    message: str
    executed: Executed
    retryable: bool
    details: dict[str, Any]


class TransferResult(Record):
    """A transfer as it stands; ``memory.transfer`` and ``memory.get_transfer`` answer it alike."""

    transfer_id: str
    state: TransferState
    source_allocation_id: str
    destination_allocation_id: str | None
    source_device_id: str
    destination_device_id: str
    size_bytes: Bytes
    completed_bytes: Bytes
    duration_us: Microseconds | None
    bytes_per_second: Count | None
    checksum: str | None
    """``sha256:`` and the digest, where it was verified."""
    shared_memory: SharedMemory | None
    error: ErrorBody | None

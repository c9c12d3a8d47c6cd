"""What is asked of devices, allocations and transfers, and to reclaim memory."""

from typing import Annotated

from pydantic import Field

from protocol import vocabulary as words
from protocol.params.fields import (
    Alignment,
    ClearType,
    GroupBy,
    Initialize,
    MemoryType,
    Name,
    OptimizationLevel,
    Params,
    SizeBytes,
    TransferType,
)
from protocol.vocabulary import INT64_MAX


class GetStatusParams(Params):
    """Ask where the memory is, on one device or all."""

    device_id: Name | None = None
    include_allocations: bool = False
    include_usage_stats: bool = False
    include_fragmentation: bool = False
    include_processes: bool = False
    """List the processes that hold memory of each device. Asks the driver or the system: some milliseconds."""
    refresh: bool = False
    """Ask the operating system and the devices now, instead of answering from readings up to 100 ms old (250 ms, of a
    device in a process of its own). One that does not answer in 40 ms is told of by its last figures."""
    limit: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Devices on a page; null for all of them."""
    after: Name | None = None
    """The ``next`` of the page before."""


class GetUsageParams(Params):
    """Ask for allocated bytes by owner, purpose or memory type."""

    device_id: Name | None = None
    group_by: GroupBy = words.GroupBy.OWNER


class GetAllocationsParams(Params):
    """List allocations, oldest first, a page at a time."""

    device_id: Name | None = None
    allocation_id: Name | None = None
    owner: Name | None = None
    purpose: Name | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 100
    after: Name | None = None
    """The ``next`` of the page before."""


class AllocateParams(Params):
    """Ask for memory. All or nothing: a failed allocate changes no figure."""

    size_bytes: SizeBytes
    device_id: Name | None = None
    memory_type: MemoryType = words.MemoryType.DEVICE
    initialize: Initialize = words.Initialize.ZERO
    alignment: Alignment | None = None
    """Bytes, a power of two up to 1 GiB; null for the device's own."""
    purpose: Name | None = None
    owner: Name | None = None
    persistent: bool = False
    lease_ms: Annotated[int, Field(ge=1, le=INT64_MAX)] | None = None
    """The allocation is freed when this runs out."""
    make_room: bool = False
    """Models may be unloaded to make it fit."""
    plan_id: Name | None = None
    """A plan for so many bytes, which is carried out as it was answered, or refused as ``plan_stale``."""


class DeallocateParams(Params):
    """Give one allocation back."""

    allocation_id: Name
    force: bool = False
    """Also while it is persistent."""


class RenewLeaseParams(Params):
    """Have an allocation's lease end later, or sooner; one without a lease gets one."""

    allocation_id: Name
    lease_ms: Annotated[int, Field(ge=1, le=INT64_MAX)]
    """From now on, whatever was left of it."""


class TransferParams(Params):
    """Copy or move an allocation's contents to a new allocation."""

    source_allocation_id: Name
    destination_device_id: Name
    transfer_type: TransferType = words.TransferType.COPY
    memory_type: MemoryType = words.MemoryType.DEVICE
    """Of the new allocation."""
    verify: bool = False
    """Read the copy back and compare SHA-256 digests."""
    wait: bool = True
    """False answers at once; follow it with ``memory.get_transfer``."""


class GetTransferParams(Params):
    """Ask how far a transfer has come."""

    transfer_id: Name


class ClearParams(Params):
    """Give up caches, allocations or models."""

    device_id: Name | None = None
    clear_type: ClearType = words.ClearType.CACHE
    owner: Name | None = None
    """Only this owner's allocations."""
    force: bool = False
    """Also what is persistent or pinned."""


class DefragmentParams(Params):
    """Join free memory into larger blocks and give back what is not needed."""

    device_id: Name | None = None
    aggressive: bool = False
    """May restart the device's own process; its contents are carried over."""


class OptimizeParams(Params):
    """Carry out the recommended actions up to a level."""

    device_id: Name | None = None
    optimization_level: OptimizationLevel = words.OptimizationLevel.CONSERVATIVE
    dry_run: bool = False

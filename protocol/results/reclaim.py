"""What clearing, defragmenting and optimizing answer."""

from typing import Any

from protocol.record import Record
from protocol.results.numbers import Bytes, Count
from protocol.results.pieces import (
    Fragmentation,
    Kept,
    KeptConsumer,
    KeptModel,
    ReleasedMemory,
    UnloadedModel,
)
from protocol.vocabulary import PressureLevel


class ClearResult(Record):
    """What was given up, and what stayed."""

    cleared_bytes: Bytes
    returned_bytes: Bytes | None
    allocations_freed: Count
    models_unloaded: tuple[UnloadedModel, ...]
    kept: tuple[Kept, ...]
    allocation_ids: tuple[str, ...] | None
    """Of the allocations that were freed; null where they are more than 10,000: what is left is listed."""


class DefragmentStep(Record):
    """One thing that was done, and what came back."""

    step: str
    returned_bytes: Bytes | None


class ContentsDisplacedData(Record):
    """What of a device's contents is in host memory until the device has room for it; empty once all is back.

    It can be read, written and freed meanwhile. It happens where the budget falls while a process is replaced.
    """

    device_id: str
    reason: str | None
    displaced_bytes: Bytes
    allocation_ids: tuple[str, ...]
    model_ids: tuple[str, ...]


class DefragmentResult(Record):
    """What defragmenting did. The fragmentation is null where the device cannot tell, or over several."""

    returned_bytes: Bytes | None
    allocations_moved: Count
    fragmentation_before: Fragmentation | None
    fragmentation_after: Fragmentation | None
    steps: tuple[DefragmentStep, ...]
    displaced: tuple[ContentsDisplacedData, ...]
    """What a new process had no room for after all, and so waits in host memory."""


class OptimizeStep(Record):
    """A recommended action, carried out unless it was a dry run."""

    step: str
    data: dict[str, Any]
    expected_bytes: Bytes | None
    returned_bytes: Bytes | None
    """Measured at the operating system or driver; null in a dry run, or where it can't be measured."""
    reason: str
    """Why; and what came back, where that is not what was expected."""


class OptimizeResult(Record):
    """What optimizing did."""

    claimed_bytes: Bytes | None
    """What the steps that were carried out should have freed, by the ledger."""
    returned_bytes: Bytes | None
    """What came back of it, measured at the operating system or driver."""
    steps: tuple[OptimizeStep, ...]
    pressure_before: PressureLevel
    pressure_after: PressureLevel
    released: tuple[ReleasedMemory, ...] = ()
    """What other consumers than models gave back, or in a dry run would be asked for; not among the steps."""
    models_kept: tuple[KeptModel, ...] = ()
    """The worker's own models on these devices that stay, and why."""
    consumers_kept: tuple[KeptConsumer, ...] = ()
    """Of the consumers of which nothing goes the first 16 of each device, and why: those that would go but for the level or their silence,
    then the cheapest first, then those of which nothing can be had."""

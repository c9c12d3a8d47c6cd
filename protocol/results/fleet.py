"""What asking a fleet of workers answers."""

from protocol.record import Record
from protocol.results.numbers import Bytes, Cost, Milliseconds
from protocol.results.pieces import Kept


class MovedMemory(Record):
    """An allocation or a model that a node held, and that another node holds from now on."""

    allocation_id: str | None
    """As it was named before; null for a model."""
    destination_allocation_id: str | None
    """As it is named from now on; null for a model."""
    model_id: str | None
    """Null for an allocation."""
    source_device_id: str
    destination_device_id: str
    moved_bytes: Bytes
    """What the allocation is, as asked for, or what the model takes where it is now."""


class DrainedModel(Record):
    """A model that a node unloaded, and that no other loaded for it: that is done at its next use."""

    model_id: str
    device_id: str
    freed_bytes: Bytes
    """What the model was counted with, and is no longer: by the ledger."""
    returned_bytes: Bytes | None
    """What the system shows came back; null where it does not say."""
    reload_ms: Milliseconds | None
    reason: str


class FleetDrainResult(Record):
    """What became of all that a node held; it is empty where nothing was kept."""

    node: str
    moved: tuple[MovedMemory, ...]
    unloaded: tuple[DrainedModel, ...]
    kept: tuple[Kept, ...]
    """Allocations and models that stay on the node, and why: nothing else has room for them, or they are in use. Drain
    it again when that is over."""
    cost_ms: Cost | None
    """What moving took, and what loading again what was unloaded is expected to take; null where that was never measured."""

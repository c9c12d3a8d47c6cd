"""What a plan for room holds and fences, as the models' parts hand it to one another."""

from protocol.record import Record
from worker.core.records import Reservation
from worker.manager.model_table import ModelEntry, Residence


class Fenced(Record):
    """A model on its way out, and what it gives up."""

    entry: ModelEntry
    residence: Residence
    reason: str
    reload_ms: int | None
    last_look: int
    host_room: Reservation | None = None
    """Held in host memory, where it is offloaded."""


class Room(Record):
    """Room that is held, and what has to go before it is there."""

    reservation: Reservation
    fenced: tuple[Fenced, ...]


class Asking(Record):
    """Room that is not there unless the owners of these models unload them."""

    model_ids: tuple[str, ...]

"""Where each action of the contract goes: one table, complete by a check at the start."""

from enum import StrEnum

from protocol.actions import ACTIONS
from protocol.record import Record


class Where(StrEnum):
    """Which node answers."""

    ONE = "one"
    """The one whose device or id ``field`` names; the gateway's own where it names none."""
    PLACED = "placed"
    """The one that is named, else the one that placement chooses."""
    EVERY = "every"
    """All of them, merged into one answer; only one where a device of it is named."""
    MODEL = "model"
    """Those where the model is loaded."""
    CONSUMER = "consumer"
    """The one that the consumer was registered on."""
    OWN = "own"
    """The gateway's own: what belongs to the application, or to its machine."""
    GATEWAY = "gateway"
    """None: the gateway answers itself."""


class Route(Record):
    """One action's row."""

    where: Where
    field: str = "device_id"
    """What names the node, of ``data``."""


def _of(field: str) -> Route:
    return Route(Where.ONE, field)


ROUTES: dict[str, Route] = {
    "memory.get_status": Route(Where.EVERY),
    "memory.get_usage": Route(Where.EVERY),
    "memory.get_allocations": Route(Where.EVERY),
    "memory.allocate": Route(Where.PLACED),
    "memory.deallocate": _of("allocation_id"),
    "memory.renew_lease": _of("allocation_id"),
    "memory.transfer": _of("source_allocation_id"),
    "memory.get_transfer": _of("transfer_id"),
    "memory.clear": Route(Where.EVERY),
    "memory.defragment": Route(Where.EVERY),
    "memory.optimize": Route(Where.EVERY),
    "memory.get_model_status": Route(Where.EVERY),
    "memory.model_optimize": Route(Where.EVERY),
    "memory.get_pressure": Route(Where.EVERY),
    "memory.get_analytics": Route(Where.EVERY),
    "memory.get_metrics": Route(Where.EVERY),
    "memory.get_optimization_recommendations": Route(Where.EVERY),
    "memory.load_model": Route(Where.PLACED),
    "memory.unload_model": Route(Where.MODEL),
    "memory.reload_models": Route(Where.EVERY),
    "memory.plan": Route(Where.PLACED),
    "memory.plan_batches": _of("device_id"),
    "memory.set_limits": _of("device_id"),
    "memory.register_consumer": _of("device_id"),
    "memory.released": Route(Where.CONSUMER),
    "memory.unregister_consumer": Route(Where.CONSUMER),
    "memory.get_consumers": Route(Where.EVERY),
    "store.open": Route(Where.OWN),
    "store.put": Route(Where.OWN),
    "store.get": Route(Where.OWN),
    "store.search": Route(Where.OWN),
    "store.load_folder": Route(Where.OWN),
    "store.list": Route(Where.OWN),
    "store.delete": Route(Where.OWN),
    "store.clear": Route(Where.OWN),
    "store.close": Route(Where.OWN),
    "store.delete_scope": Route(Where.OWN),
    "store.stats": Route(Where.OWN),
    "operation.begin": Route(Where.OWN),
    "operation.end": Route(Where.OWN),
    "fleet.drain": Route(Where.GATEWAY),
    "worker.hello": Route(Where.GATEWAY),
    "worker.ping": Route(Where.GATEWAY),
    "worker.get_health": Route(Where.EVERY),
    "worker.cancel": Route(Where.GATEWAY),
    "worker.subscribe": Route(Where.GATEWAY),
    "worker.shutdown": Route(Where.GATEWAY),
}

NAMING = (
    "device_id",
    "destination_device_id",
    "allocation_id",
    "source_allocation_id",
    "transfer_id",
    "plan_id",
    "operation_id",
)
"""Fields of ``data`` that name something on a node."""


def check_complete() -> None:
    """Raise TypeError with the names of actions that have no row, and of rows that are none."""
    wrong = ACTIONS.keys() ^ ROUTES.keys()
    if wrong:
        message = f"not routed, or no action: {', '.join(sorted(wrong))}"
        raise TypeError(message)

"""What nodes, the directory and gateways say to one another. Frozen; times in milliseconds or seconds as named."""

import pickle
from typing import Any

from protocol.record import Record
from worker.fleet.views import NodeChange, NodeView

NAMESPACE = "memory-worker"
"""Of the actors, within Ray."""
DIRECTORY = "directory"
"""The directory's name there; a node's begins with ``node:``."""
NODE_PREFIX = "node:"

LEASE_SECONDS = 5.0
"""How long a node admits placements, and is placed on, after it last reached the directory. Placing twice is bounded by it."""
LOOK_SECONDS = 1.0
"""A node looks at its worker at least so often."""
START_SECONDS = 120.0
"""How long a node may take until it first tells of itself: then it is lost, until it does."""
GATEWAY_SECONDS = 10.0
"""A gateway that has not asked the directory for so long is gone: what it had without a lease is freed."""


class FleetError(Exception):
    """The fleet can't be started; for people."""


class Told(Record):
    """What a node says of itself."""

    node_id: str
    said: NodeView | NodeChange | None
    """None where there are only events to tell."""
    events: tuple[tuple[str, Any], ...] = ()
    """Names on the wire and data, as its worker told them."""


class Heard(Record):
    """What the directory answers a node."""

    known: bool
    """False where it needs the whole view: it was started again, or never had one."""
    refused: str | None = None
    """Why nothing of it was taken over; None where it was."""
    gateways: tuple[str, ...] | None = None
    """Those that are there; None while that is not known yet."""


class Since(Record):
    """Up to where a gateway knows what the directory knows."""

    directory: str = ""
    """Which start of it."""
    change: int = 0
    event: int = 0


class News(Record):
    """What a gateway did not know yet."""

    since: Since
    said: tuple[NodeView | NodeChange, ...]
    """In the order in which nodes said it; whole views where changes are not known any more."""
    leases: dict[str, float]
    """Of every node that is placed on: for how many seconds more."""
    events: tuple[tuple[str, str, Any], ...]
    """Node, name on the wire, and data."""


class Place(Record):
    """Whose request it is, and where it stands in their order: Ray keeps none for actors that answer side by side."""

    gateway: str
    link: str
    number: int


class Guard(Record):
    """What a placement was decided by, for the node to compare with what it is."""

    incarnation: str
    revision: int
    model_id: str | None = None
    """What it works with; None for what only allocates or loads."""


class Asked(Record):
    """A request of a gateway to a node."""

    place: Place
    call_id: str
    guard: Guard | None
    """None for what was not placed: the node carries it out whatever it is now."""
    action: str
    data: dict[str, Any]
    meta: dict[str, Any]
    """As a request's ``meta``: ``deadline_ms``, ``traceparent``."""


class Answered(Record):
    """A node's answer to a request."""

    message: dict[str, Any] | None
    """The worker's reply; None where the node refused what was placed."""
    refused: str | None
    """Why: its view was stale, it lost the directory, or it is draining."""
    incarnation: str
    """Which start of the worker replied; empty where none did."""
    revision: int
    """Views from this one on show what was done."""
    view: NodeView | None = None
    """As it is now, where the one that was decided by was stale, or where more became different than the bytes of the
    allocation that was asked for."""

    @property
    def succeeded(self) -> bool:
        """Whether the worker did it."""
        return self.message is not None and self.message.get("success") is True


def packed(value: Asked | Answered) -> bytes:
    """Return it as bytes: each argument that Ray packs itself costs a tenth of a whole call."""
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def unpacked(value: bytes) -> Any:
    """Return what was packed by another process of the same cluster, whose members run one another's code anyway."""
    return pickle.loads(value)  # noqa: S301 - as above: Ray itself does no other

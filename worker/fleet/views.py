"""What a node says of itself, and what a placement is made from. Frozen; sizes in bytes, times in milliseconds.

A node is a machine with one worker. It alone knows what it holds; everyone else has views of it, each with the revision
that it is of. A view is never guessed forward: what its holder knows beyond it is in ``reservations``.
"""

from dataclasses import replace
from enum import StrEnum

from protocol.record import Record
from protocol.vocabulary import DeviceKind, DeviceState, FileLocation, ModelState


class PriceStep(Record):
    """A next part of what a device's consumers would give back, and what that costs."""

    bytes: int
    """What is expected to come back."""
    cost_ms: float
    """Expected milliseconds of rebuilding, by the node's own price."""
    divisible: bool = False
    """Whether any part of it may be asked for, at its share of the cost."""
    model_id: str | None = None
    """The model that goes; None where it is something else."""


class DeviceView(Record):
    """One device of a node."""

    device_id: str
    """As the node calls it, without the node's name: ``cuda:0``."""
    kind: DeviceKind
    total_bytes: int | None = None
    available_bytes: int | None = None
    """Headroom, below the node's own limits and caps; None where there are no figures: the device itself will say."""
    prices: tuple[PriceStep, ...] = ()
    """What making room costs, in the order in which the node would take it. What is pinned or in use is not in it."""
    queue_ms: float = 0.0
    """How long the loads that are under way or queued there still take: a further one begins after them."""
    in_use: int = 0
    """Leases of models on it that are held or waited for now."""
    placed: tuple[tuple[str, int], ...] = ()
    """How many of these each gateway placed, and knows of itself."""
    work_ms: float | None = None
    """How long such a lease is held by itself, on average of late; None where none ended yet."""
    so_far_ms: float = 0.0
    """How long the longest has been worked with by now, where none ended yet; else 0."""
    parallel: int | None = None
    """How many of them are worked on side by side; None where none was seen to wait for another."""
    unslowed: int = 0
    """How many were side by side at most without waiting for one another."""
    state: DeviceState = DeviceState.AVAILABLE


class ModelView(Record):
    """One model that a node's worker knows."""

    model_id: str
    state: ModelState = ModelState.UNLOADED
    size_bytes: int | None = None
    """What it takes on a device: measured, else estimated, else declared; None where nothing says."""
    device_id: str | None = None
    """Where it is, or is being loaded; None for nowhere."""
    devices: tuple[str, ...] = ()
    """The only devices it may be loaded on; none for any."""
    load_ms: float | None = None
    """What loading it took on this node; None where it never was, or where its file was elsewhere then."""
    restore_ms: float | None = None
    """What bringing it back from this node's host memory took; None where it never was."""
    file: FileLocation = FileLocation.LOCAL
    read_bytes_per_s: float | None = None
    """How fast the node reads that file: its disk's or its link's measured speed; None where it was never measured."""
    ready_in_ms: float = 0.0
    """How long a load that is under way is still expected to take; 0 for one that is not."""
    in_use: int = 0
    """Leases of it that are held or waited for now."""
    refused: str | None = None
    """Why it can't be loaded there, whatever room there is; None where it can."""
    names: tuple[str, ...] = ()
    """What else it is called there: aliases, and roles that it is for."""


class NodeView(Record):
    """A node as it was at one revision."""

    node_id: str
    incarnation: str
    """Another after each start of its worker, which begins empty."""
    revision: int
    devices: tuple[DeviceView, ...]
    """In the node's own order."""
    models: tuple[ModelView, ...] = ()
    """Every model that it knows, loaded or not."""
    default_device_id: str | None = None
    """Where an allocation goes that names no device; None for the first one."""
    draining: bool = False
    """Nothing new is placed there."""
    leased_until_ns: int | None = None
    """When its lease with the directory ends, by the clock of whoever holds this view; None for one that does not end."""
    down_ms: float = 0.0
    """How long it had no worker before this start of it; 0 for the node's first one."""


class NodeChange(Record):
    """What became different on a node since the revision that its directory has of it."""

    node_id: str
    incarnation: str
    since: int
    """The revision that it is to be applied to, and no other."""
    revision: int
    devices: tuple[DeviceView, ...] = ()
    """Those that are different, whole."""
    models: tuple[ModelView, ...] = ()
    """Those that are different or new, whole."""
    models_gone: tuple[str, ...] = ()
    """Those that it does not know any more, by id."""
    draining: bool = False


def others_only(said: NodeView | NodeChange, gateway: str) -> NodeView | NodeChange:
    """Return what a node said as this gateway is to know it: without the leases that it placed itself, and knows better."""
    mine = {each.device_id: dict(each.placed).get(gateway, 0) for each in said.devices}
    if not any(mine.values()):
        return said
    devices = (replace(each, in_use=max(0, each.in_use - mine[each.device_id])) for each in said.devices)
    return replace(said, devices=tuple(devices))


class PlacementRequest(Record):
    """What is to be placed: a model, loaded or leased, or so many bytes."""

    model_id: str | None = None
    required_bytes: int | None = None
    """What is needed; None for what the node says the model takes."""
    node_id: str | None = None
    """The only node that will do; None for any."""
    device_id: str | None = None
    """The only device that will do, as nodes call it; None for the model's own or the node's default one."""
    kind: DeviceKind | None = None
    """The only kind of device that will do; None for any."""
    excluded: frozenset[str] = frozenset()
    """Nodes that refused it already, by id."""
    make_room: bool = True
    """Whether anything may go for it."""
    new_use: bool = True
    """Whether it is to be worked with at once, and so has to wait its turn: a lease, and not a mere load."""
    salt: str = ""
    """Which of several nodes that are as good: by the model where there is one, else by this. Such as the request's id."""


class Step(StrEnum):
    """By which step of the decision a device was chosen."""

    LOADED = "loaded"
    LOADING = "loading"
    FITS = "fits"
    UNKNOWN_HEADROOM = "unknown_headroom"
    MAKES_ROOM = "makes_room"
    FITS_ELSEWHERE = "fits_elsewhere"
    """On another kind of device than the node's default one."""


class Choice(Record):
    """One place where it can go, and what that is expected to cost."""

    node_id: str
    device_id: str
    revision: int
    """Of the view that says so."""
    step: Step
    wait_ms: float
    """Until it can be begun with: its turn on a loaded model, loads that are before it."""
    load_ms: float
    """Loading it there, with its file where it is; 0 for what is loaded, and for bytes."""
    room_ms: float
    """What goes for it, at the node's own prices."""
    size_bytes: int
    """What it takes of the device; 0 for what is there already."""
    reason: str
    """In words, for people."""
    is_default: bool = False
    """Whether it is the device that its node takes by itself, unless the model's declaration says another."""

    @property
    def price_ms(self) -> float:
        """What it is chosen by: everything that is expected to be waited for, now or later, by anyone."""
        return self.wait_ms + self.load_ms + self.room_ms


class Cause(StrEnum):
    """Why a node was passed over."""

    DEARER = "dearer"
    EXCLUDED = "excluded"
    NOT_ASKED_FOR = "not_asked_for"
    """The request names another node."""
    LEASE_ENDED = "lease_ended"
    DRAINING = "draining"
    STALE = "stale"
    """It is known to be further than its view."""
    UNKNOWN_MODEL = "unknown_model"
    REFUSED = "refused"
    """The model can't be loaded there."""
    NO_DEVICE = "no_device"
    """It has no device of that name or kind that can be asked for memory."""
    TOO_LARGE = "too_large"
    """It is larger than every device there, whatever is on them."""
    NO_ROOM = "no_room"


class Passed(Record):
    """A node that was passed over."""

    node_id: str
    cause: Cause
    reason: str
    """Begins with the node's name."""

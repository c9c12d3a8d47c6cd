"""Which node a request goes to, and why no other. Pure: no clock, no I/O, and the same answer everywhere for the same views."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from protocol.record import Record
from worker.fleet.known import KnownNode
from worker.fleet.options import ABSENT, Option, Pricing
from worker.fleet.pricing import Work
from worker.fleet.reservations import Reservations
from worker.fleet.views import Cause, Choice, NodeView, Passed, PlacementRequest, Step


class Placement(Record):
    """Where a request goes; nowhere where there is no such place."""

    chosen: Choice | None
    """None for nowhere."""
    others: Callable[[], tuple[Choice, ...]]
    """Says where else it could go, best first: each is tried where the one before it refused. By views as they are when
    it is called, which is to be before they change."""
    why_passed: Callable[[], tuple[Passed, ...]]
    """Says of every node but the chosen one why it is not there; likewise."""

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All places where it could go, in the order in which they are tried."""
        return () if self.chosen is None else (self.chosen, *self.others())


def place(
    request: PlacementRequest, views: Iterable[NodeView], held: Reservations | None = None, now_ns: int = 0
) -> Placement:
    """Decide where a request goes.

    A node is passed over, for the first of these that holds:
      1. it refused the request already; or another node was asked for;
      2. its lease with the directory ended; or it is draining;
      3. its view is stale: what happened there since is not in it, and is not guessed;
      4. it does not know the model, or can't load it;
      5. it has no device as asked for that can be asked for memory.
    Else it has a price, in expected milliseconds, by what holds first:
      6. the model is loaded there: until it is its turn;
      7. it is being loaded there: until it is, and its turn has come;
      8. it fits with nothing going: the loads before it and its own, by where its file is, and until its turn has come;
      9. no one knows whether it fits: the same, and the device itself will say;
     10. it fits once others made room: the same, and what goes, in the node's own order, by the chance of its reuse.
     11. It does not fit whatever goes: the node is passed over.
    It goes where the price is lowest, and on another kind of device than a node's first one only where none else will do;
    where its file was not found, only where that won't either.
    Of places that are as good (``pricing.level_of``), loaded goes before loading, and both before others; then goes the
    next one on the ring of nodes from the request's place. That is the model's where it has to be loaded, so that all
    who place it at once load it once, and elsewhere the request's own, so that they do not all go to one node.
    """
    return place_among(request, [KnownNode(view) for view in views], held or Reservations(), now_ns)


def place_among(
    request: PlacementRequest, nodes: Sequence[KnownNode], held: Reservations, now_ns: int
) -> Placement:
    """Decide as ``place``, by pricing every node."""
    work = Work.of(device for node in nodes for device in node.devices.values())
    ring = sorted(nodes, key=lambda node: (node.place, node.node_id))
    index = {node.node_id: place for place, node in enumerate(ring)}
    pricing = Pricing(request, held, now_ns, work.usual, index)
    return decided(request, nodes, pricing, min(_options(nodes, pricing), key=_order, default=None))


def decided(
    request: PlacementRequest, nodes: Sequence[KnownNode], pricing: Pricing, best: Option | None
) -> Placement:
    """Make the placement that the best option comes to."""

    def others() -> Iterator[KnownNode]:
        return (node for node in nodes if best is None or node is not best.node)

    def why_passed() -> tuple[Passed, ...]:
        priced = map(pricing.price, others())
        return tuple(each if isinstance(each, Passed) else _dearer(request, each, best) for each in priced)

    def next_best() -> tuple[Choice, ...]:
        return tuple(told(request, each) for each in sorted(_options(others(), pricing), key=_order))

    return Placement(None if best is None else told(request, best), next_best, why_passed)


def _options(nodes: Iterable[KnownNode], pricing: Pricing) -> Iterator[Option]:
    return (option for option in map(pricing.price, nodes) if isinstance(option, Option))


def _order(option: Option) -> tuple[int, int, int, str]:
    return option.key


def told(request: PlacementRequest, option: Option) -> Choice:
    """Make the choice that an option is, with its reason in words."""
    what = request.model_id or f"{option.size_bytes:,} bytes"
    where = f"{option.node.node_id}/{option.device_id}"
    match option.step:
        case Step.LOADED:
            reason = f"{what} is loaded on {where}"
        case Step.LOADING:
            reason = f"{what} is being loaded on {where}"
        case Step.FITS | Step.FITS_ELSEWHERE:
            reason = f"{what} fits on {where} with nothing going"
        case Step.UNKNOWN_HEADROOM:
            reason = f"{where} has no figures, and will say itself whether {what} fits"
        case Step.MAKES_ROOM:
            reason = f"making room for {what} on {where} costs {option.room_ms:,.0f} ms"
    reason += f", {option.wait_ms:,.0f} ms until its turn" if option.wait_ms else ""
    reason += f", {option.load_ms:,.0f} ms to load" if option.load_ms else ""
    reason += "; its file was not found there" if option.level >= ABSENT else ""
    return Choice(
        option.node.node_id,
        option.device_id,
        option.node.revision,
        option.step,
        option.wait_ms,
        option.load_ms,
        option.room_ms,
        option.size_bytes,
        reason,
        is_default=option.device_id == option.node.default_device_id,
    )


def _dearer(request: PlacementRequest, option: Option, best: Option | None) -> Passed:
    name = option.node.node_id
    why = f"{option.price_ms:,.0f} ms there"
    why += f", {best.price_ms:,.0f} ms on {best.node.node_id}" if best is not None else ""
    return Passed(name, Cause.DEARER, f"{name}: {why}: {told(request, option).reason}")

"""Which node a request goes to, and why no other. Pure: no clock, no I/O, and the same answer everywhere for the same views."""

from collections.abc import Callable, Iterable

from protocol.record import Record
from worker.fleet.known import KnownNode
from worker.fleet.options import STEPS, Option, Pricing
from worker.fleet.reservations import Reservations
from worker.fleet.views import Cause, Choice, NodeView, Passed, PlacementRequest, Step

CHOICES_MAX = 8
"""How many places a placement names, the best first: each is tried where the one before it refused."""

AS_GOOD = 0.05
"""By how much of the lowest price another may be dearer and be as good: prices are estimates, and those who place at the
same time by the same views must not all go to one node."""


class Placement(Record):
    """Where a request goes, best first; nowhere where there is none."""

    choices: tuple[Choice, ...]
    """The first is where it goes; the others, in this order, where it goes if that one refuses."""
    why_passed: Callable[[], tuple[Passed, ...]]
    """Says of every node but the first choice's, in the order of the views, why it is not there: by views as they are
    when it is called, which is before they change."""

    @property
    def chosen(self) -> Choice | None:
        """Where it goes; None for nowhere."""
        return self.choices[0] if self.choices else None


def place(
    request: PlacementRequest, views: Iterable[NodeView], held: Reservations | None = None, now_ns: int = 0
) -> Placement:
    """Decide where a request goes.

    A node is passed over, for the first of these that holds:
      1. it refused the request already; or another node was asked for;
      2. its lease with the directory ended; or it is draining;
      3. its view is stale: what happened there since is not in it, and is not guessed;
      4. it does not know the model, can't load it, or does not find its file;
      5. it has no device as asked for that can be asked for memory.
    Else it has a price, in expected milliseconds, by what holds first:
      6. the model is loaded there: until it is its turn;
      7. it is being loaded there: until it is, and its turn has come;
      8. it fits with nothing going: the loads before it and its own, by where its file is, and until its turn has come;
      9. no one knows whether it fits: the same, and the device itself will say;
     10. it fits once others made room: the same, and what goes, at the node's own prices.
     11. It does not fit whatever goes: the node is passed over.
    It goes where the price is lowest. Places that are as good (``AS_GOOD``) go by the step above, then by the request's
    place on the ring of nodes: the model's where it has to be loaded, so that all who place it at once load it once, and
    the request's own elsewhere.
    """
    return place_among(request, [KnownNode(view) for view in views], held or Reservations(), now_ns)


def place_among(
    request: PlacementRequest, nodes: list[KnownNode], held: Reservations, now_ns: int
) -> Placement:
    """Decide as ``place``, by pricing every node."""
    pricing = Pricing(request, held, now_ns)
    options = [option for option in map(pricing.price, nodes) if isinstance(option, Option)]
    return decided(request, nodes, pricing, best_first(options))


def decided(
    request: PlacementRequest, nodes: list[KnownNode], pricing: Pricing, ranked: list[Option]
) -> Placement:
    """Make the placement that ranked options come to. What is said of the other nodes is worked out once it is asked for."""

    def why_passed() -> tuple[Passed, ...]:
        best = ranked[0] if ranked else None
        others = nodes if best is None else [node for node in nodes if node is not best.node]
        priced = map(pricing.price, others)
        return tuple(each if isinstance(each, Passed) else _dearer(request, each, best) for each in priced)

    return Placement(tuple(told(request, option) for option in ranked[:CHOICES_MAX]), why_passed)


def best_first(options: Iterable[Option]) -> list[Option]:
    """Put options in the order in which they are tried."""
    ranked = sorted(options, key=lambda option: option[:3])
    limit = ranked[0].price_ms * (1 + AS_GOOD) if ranked else 0.0
    good = sum(option.price_ms <= limit for option in ranked)
    return sorted(ranked[:good], key=lambda option: (option[1:3], option.price_ms)) + ranked[good:]


def told(request: PlacementRequest, option: Option) -> Choice:
    """Make the choice that an option is, with its reason in words."""
    what = request.model_id or f"{option.size_bytes:,} bytes"
    where = f"{option.node.node_id}/{option.device_id}"
    step = STEPS[option.step]
    match step:
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
    return Choice(
        option.node.node_id,
        option.device_id,
        option.node.revision,
        step,
        option.wait_ms,
        option.load_ms,
        option.room_ms,
        option.size_bytes,
        reason,
    )


def _dearer(request: PlacementRequest, option: Option, best: Option | None) -> Passed:
    name = option.node.node_id
    why = f"{option.price_ms:,.0f} ms there"
    why += f", {best.price_ms:,.0f} ms on {best.node.node_id}" if best is not None else ""
    return Passed(name, Cause.DEARER, f"{name}: {why}: {told(request, option).reason}")

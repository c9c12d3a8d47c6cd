"""Which node a request goes to, and why no other. Pure: no clock, no I/O, and the same answer everywhere for the same views."""

from collections.abc import Callable, Iterable
from typing import NamedTuple
from zlib import crc32

from protocol.record import Record
from protocol.vocabulary import DeviceState, ModelState
from worker.fleet.pricing import load_ms, room_ms, turn_ms
from worker.fleet.reservations import NodeHolds, Reservations
from worker.fleet.views import (
    Cause,
    Choice,
    DeviceView,
    FileLocation,
    ModelView,
    NodeView,
    Passed,
    PlacementRequest,
    Step,
)

CHOICES_MAX = 8
"""How many places a placement names, the best first: each is tried where the one before it refused."""

AS_GOOD = 0.05
"""By how much of the lowest price another may be dearer and be as good: prices are estimates, and those who place at the
same time by the same views must not all go to one node."""

STEPS = tuple(Step)


class Placement(Record):
    """Where a request goes, best first; nowhere where there is none."""

    choices: tuple[Choice, ...]
    """The first is where it goes; the others, in this order, where it goes if that one refuses."""
    why_passed: Callable[[], tuple[Passed, ...]]
    """Says of every node but the first choice's, in the order of the views, why it is not there."""

    @property
    def chosen(self) -> Choice | None:
        """Where it goes; None for nowhere."""
        return self.choices[0] if self.choices else None


class Option(NamedTuple):
    """A place where it can go, as it is compared with others."""

    price_ms: float
    step: int
    """Its index in ``STEPS``."""
    distance: int
    """From the request's place on the ring of nodes: different requests begin with different nodes."""
    node: NodeView
    device: DeviceView
    wait_ms: float
    load_ms: float
    room_ms: float
    size_bytes: int


def place(
    request: PlacementRequest, views: Iterable[NodeView], held: Reservations | None = None, now_ns: int = 0
) -> Placement:
    """Decide where a request goes.

    A node is passed over, for the first of these that holds:
      1. it refused the request already; or another node was asked for;
      2. its lease with the directory ended; or it is draining;
      3. its view is stale: what was placed there since is not in it, and is not guessed;
      4. it does not know the model, can't load it, or does not find its file;
      5. it has no device as asked for that can be asked for memory.
    Else it has a price, in expected milliseconds, by what holds first:
      6. the model is loaded there: until it is its turn;
      7. it is being loaded there: until it is, and then its turn;
      8. it fits with nothing going: the loads before it, and its own, by where its file is;
      9. no one knows whether it fits: the same, and the device itself will say;
     10. it fits once others made room: the same, and what goes, at the node's own prices.
     11. It does not fit whatever goes: the node is passed over.
    It goes where the price is lowest. Places that are as good (``AS_GOOD``) go by the step above, then by the request's
    place on the ring of nodes: the model's where it has to be loaded, so that all who place it at once load it once, and
    the request's own elsewhere.
    """
    held = Reservations() if held is None else held
    nodes = list(views)
    options: list[Option] = []
    passed: dict[str, Passed] = {}
    for view in nodes:
        option = price(request, view, held, now_ns)
        if isinstance(option, Passed):
            passed[view.node_id] = option
        else:
            options.append(option)
    ranked = best_first(options)

    def why_passed() -> tuple[Passed, ...]:
        return _why_passed(request, nodes, ranked, passed)

    return Placement(tuple(told(request, option) for option in ranked[:CHOICES_MAX]), why_passed)


def price(request: PlacementRequest, view: NodeView, held: Reservations, now_ns: int) -> Option | Passed:
    """Price one node: steps 1 to 11 of the decision."""
    refusal = why_not(request, view, held, now_ns)  # 1 to 3
    if refusal is not None:
        return refusal
    holds = held.of(view.node_id)
    if request.model_id is None:
        return _cheapest(request, view, None, request.required_bytes or 0, holds)
    model = next((each for each in view.models if each.model_id == request.model_id), None)
    if model is None:  # 4
        return _passed(view, Cause.UNKNOWN_MODEL, f"it does not know {request.model_id!r}")
    return _price_model(request, view, model, holds)


def why_not(request: PlacementRequest, view: NodeView, held: Reservations, now_ns: int) -> Passed | None:
    """Say why a node is passed over whatever it holds: steps 1 to 3 of the decision; None where it is not."""
    if view.node_id in request.excluded:  # 1
        return _passed(view, Cause.EXCLUDED, "it refused this request already")
    if request.node_id not in {None, view.node_id}:
        return _passed(view, Cause.NOT_ASKED_FOR, f"{request.node_id} was asked for")
    if view.leased_until_ns is not None and view.leased_until_ns <= now_ns:  # 2
        return _passed(view, Cause.LEASE_ENDED, "its lease with the directory ended")
    if view.draining:
        return _passed(view, Cause.DRAINING, "it is draining")
    if held.is_stale(view):  # 3
        return _passed(
            view, Cause.STALE, f"it is further than revision {view.revision}, which is all that is known"
        )
    return None


def _price_model(
    request: PlacementRequest, view: NodeView, model: ModelView, holds: NodeHolds
) -> Option | Passed:
    ahead = holds.uses.get(model.model_id, 0)
    turn = turn_ms(model, ahead) if request.new_use else 0.0
    begun = holds.loads.get(model.model_id)
    if model.state in {ModelState.LOADED, ModelState.LOADING} or begun is not None:  # 6, 7
        device_id = begun.device_id if begun is not None else model.device_id
        device = next((each for each in view.devices if each.device_id == device_id), None)
        if device is None or not _asked_for(request, device):
            return _passed(view, Cause.NO_DEVICE, f"{model.model_id!r} is on {device_id} there")
        if model.state is ModelState.LOADED:
            return _option(request, view, device, Step.LOADED, turn)
        wait = model.ready_in_ms if begun is None else begun.wait_ms + begun.load_ms
        return _option(request, view, device, Step.LOADING, wait + turn)
    if model.refused is not None:
        return _passed(view, Cause.REFUSED, model.refused)
    if model.file is FileLocation.ABSENT:
        return _passed(view, Cause.REFUSED, f"it has no file of {model.model_id!r}")
    size = request.required_bytes if request.required_bytes is not None else model.size_bytes
    return _cheapest(request, view, model, size or 0, holds)


def _cheapest(
    request: PlacementRequest, view: NodeView, model: ModelView | None, size_bytes: int, holds: NodeHolds
) -> Option | Passed:
    """Price the devices of a node as its own worker would try them: steps 5 and 8 to 11."""
    devices = _devices(request, view, model)
    if not devices:  # 5
        return _passed(
            view, Cause.NO_DEVICE, f"it has no {_asked(request, model)} that can be asked for memory"
        )
    load = 0.0
    if model is not None:
        offloaded = model.state is ModelState.OFFLOADED and model.restore_ms is not None
        load = model.restore_ms or 0.0 if offloaded else load_ms(model, size_bytes)
    best: Option | None = None
    most: list[str] = []
    for device in devices:
        taken = holds.bytes_by_device.get(device.device_id, 0)
        available = device.available_bytes
        missing = 0 if available is None else size_bytes + taken - available
        if available is None:  # 9
            step, room = Step.UNKNOWN_HEADROOM, 0.0
        elif missing <= 0:  # 8
            step, room = Step.FITS, 0.0
        else:
            after = room_ms(device.prices, missing) if request.make_room else None
            if after is None:  # 11
                most.append(_no_room(request, device, size_bytes, taken))
                continue
            before = room_ms(device.prices, min(missing, taken - available)) or 0.0
            step, room = Step.MAKES_ROOM, after - before  # 10
        option = _option(
            request, view, device, step, device.queue_ms if model else 0.0, load, room, size_bytes
        )
        if best is None or option[:2] < best[:2]:
            best = option
    return best or _passed(view, Cause.NO_ROOM, "; ".join(most))


def _devices(request: PlacementRequest, view: NodeView, model: ModelView | None) -> list[DeviceView]:
    """Return the devices that will do, in the order in which the node's worker tries them: its default one first."""
    there = [each for each in view.devices if each.state is DeviceState.AVAILABLE]
    default = view.default_device_id or (view.devices[0].device_id if view.devices else None)
    if request.device_id is not None:
        there = [each for each in there if each.device_id == request.device_id]
    elif model is None and request.kind is None:
        there = [each for each in there if each.device_id == default]
    if model is not None and model.devices:
        there = [each for each in there if each.device_id in model.devices]
    there = [each for each in there if request.kind in {None, each.kind}]
    return sorted(there, key=lambda each: each.device_id != default)


def best_first(options: Iterable[Option]) -> list[Option]:
    """Put options in the order in which they are tried."""
    ranked = sorted(options, key=lambda option: option[:3])
    limit = ranked[0].price_ms * (1 + AS_GOOD) if ranked else 0.0
    good = sum(option.price_ms <= limit for option in ranked)
    return sorted(ranked[:good], key=lambda option: (option[1:3], option.price_ms)) + ranked[good:]


def told(request: PlacementRequest, option: Option) -> Choice:
    """Make the choice that an option is, with its reason in words."""
    step, what = STEPS[option.step], request.model_id or f"{option.size_bytes:,} bytes"
    where = f"{option.node.node_id}/{option.device.device_id}"
    terms = {
        Step.LOADED: f"{what} is loaded on {where}",
        Step.LOADING: f"{what} is being loaded on {where}",
        Step.FITS: f"{what} fits on {where} with nothing going",
        Step.UNKNOWN_HEADROOM: f"{where} has no figures, and will say itself whether {what} fits",
        Step.MAKES_ROOM: f"making room for {what} on {where} costs {option.room_ms:,.0f} ms",
    }
    reason = terms[step]
    reason += f", {option.wait_ms:,.0f} ms until its turn" if option.wait_ms else ""
    reason += f", {option.load_ms:,.0f} ms to load" if option.load_ms else ""
    return Choice(
        option.node.node_id,
        option.device.device_id,
        option.node.revision,
        step,
        option.wait_ms,
        option.load_ms,
        option.room_ms,
        option.size_bytes,
        reason,
    )


def _option(
    request: PlacementRequest,
    view: NodeView,
    device: DeviceView,
    step: Step,
    wait: float,
    load: float = 0.0,
    room: float = 0.0,
    size_bytes: int = 0,
) -> Option:
    there = step in {Step.LOADED, Step.LOADING}
    salt = request.salt if request.model_id is None or there else request.model_id
    distance = (crc32(view.node_id.encode()) - crc32(salt.encode())) & 0xFFFFFFFF
    return Option(wait + load + room, STEPS.index(step), distance, view, device, wait, load, room, size_bytes)


def _why_passed(
    request: PlacementRequest, nodes: list[NodeView], ranked: list[Option], passed: dict[str, Passed]
) -> tuple[Passed, ...]:
    best = ranked[0] if ranked else None
    others = {option.node.node_id: option for option in ranked[1:]}
    told_of = []
    for view in nodes:
        if view.node_id in passed:
            told_of.append(passed[view.node_id])
        elif best is not None and view.node_id in others:
            option = others[view.node_id]
            why = f"{option.price_ms:,.0f} ms there, {best.price_ms:,.0f} ms on {best.node.node_id}: {told(request, option).reason}"
            told_of.append(_passed(view, Cause.DEARER, why))
    return tuple(told_of)


def _passed(view: NodeView, cause: Cause, why: str) -> Passed:
    return Passed(view.node_id, cause, f"{view.node_id}: {why}")


def _asked_for(request: PlacementRequest, device: DeviceView) -> bool:
    return request.device_id in {None, device.device_id} and request.kind in {None, device.kind}


def _asked(request: PlacementRequest, model: ModelView | None) -> str:
    if request.device_id is not None:
        return request.device_id
    if request.kind is not None:
        return f"{request.kind} device"
    return " or ".join(model.devices) if model is not None and model.devices else "device"


def _no_room(request: PlacementRequest, device: DeviceView, size_bytes: int, taken: int) -> str:
    available = (device.available_bytes or 0) - taken
    most = sum(step.bytes for step in device.prices)
    more = f"{most:,} more at most by making room" if request.make_room else "no room may be made"
    return f"{device.device_id}: {size_bytes:,} bytes needed, {max(0, available):,} available, {more}"

"""What it costs to place a request on one node, or why it can't be. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from protocol.vocabulary import DeviceState, FileLocation, ModelState
from worker.fleet.known import KnownNode
from worker.fleet.pricing import Usual, level_of, load_ms, spread, turn_ms
from worker.fleet.reservations import NodeHolds, Reservations
from worker.fleet.views import Cause, DeviceView, ModelView, Passed, PlacementRequest, Step

THERE = frozenset({ModelState.LOADED, ModelState.LOADING})
"""States of a model that is on its node already, or about to be."""

NEW = 2
"""The rank of places where it is not yet."""

_RANKS = {Step.LOADED: 0, Step.LOADING: 1}
"""Which of places as good as each other goes first; all others after them."""

_ELSEWHERE = 1 << 20
"""On the level of a place on another kind of device than the node's own choice: after every other place."""


ABSENT = 1 << 21
"""Where its file was not found when it was last looked for: after those as well, for it may have come since."""


class Option(NamedTuple):
    """A place where a request can go. The first three fields are what it is compared by."""

    level: int
    """Of its price: those of one level are as good as each other."""
    rank: int
    distance: int
    """From the request's place on the ring of nodes: different requests begin with different nodes."""
    node: KnownNode
    device_id: str
    step: Step
    price_ms: float
    wait_ms: float = 0.0
    load_ms: float = 0.0
    room_ms: float = 0.0
    size_bytes: int = 0

    @property
    def key(self) -> tuple[int, int, int, str]:
        """What it is compared by: the lowest is the best."""
        return self.level, self.rank, self.distance, self.node.node_id


class Pricing:
    """Prices nodes for one request: steps 1 to 11 of the decision (``placement.place``)."""

    __slots__ = ("_held", "_index", "_now_ns", "_request", "_usual", "load_start", "start")

    def __init__(
        self,
        request: PlacementRequest,
        held: Reservations,
        now_ns: int,
        usual: Usual,
        index: Mapping[str, int],
    ) -> None:
        """``usual``: what is expected of leases where none was measured; ``index``: where each node is on the ring."""
        self._request = request
        self._usual = usual
        self._held = held
        self._now_ns = now_ns
        self._index = index
        self.start = spread(request.salt) % max(1, len(index))
        """Where on the ring the request begins; where it has to be loaded, all requests of its model do."""
        self.load_start = self.start
        if request.model_id is not None:
            self.load_start = spread(request.model_id) % max(1, len(index))

    def distance(self, node: KnownNode, start: int) -> int:
        """Return how far a node is from a start, on the ring."""
        return (self._index[node.node_id] - start) % len(self._index)

    def price(self, node: KnownNode) -> Option | Passed:
        """Price one node."""
        refusal = self._why_not(node)  # 1 to 3
        if refusal is not None:
            return refusal
        holds = self._held.of(node.node_id)
        if self._request.model_id is None:
            return self._cheapest(node, None, holds)
        model = node.models.get(self._request.model_id)
        if model is None:  # 4
            return _passed(node, Cause.UNKNOWN_MODEL, f"it does not know {self._request.model_id!r}")
        if model.state in THERE or model.model_id in holds.loads:
            return self._there(node, model, holds)
        if model.refused is not None:
            return _passed(node, Cause.REFUSED, model.refused)
        option = self._cheapest(node, model, holds)
        late = ABSENT if model.file is FileLocation.ABSENT else 0
        return option._replace(level=option.level + late) if isinstance(option, Option) else option

    def _why_not(self, node: KnownNode) -> Passed | None:
        request, passed = self._request, None
        if node.node_id in request.excluded:  # 1
            passed = _passed(node, Cause.EXCLUDED, "it refused this request already")
        elif request.node_id is not None and request.node_id != node.node_id:
            passed = _passed(node, Cause.NOT_ASKED_FOR, f"{request.node_id} was asked for")
        elif node.leased_until_ns is not None and node.leased_until_ns <= self._now_ns:  # 2
            passed = _passed(node, Cause.LEASE_ENDED, "its lease with the directory ended")
        elif node.draining:
            passed = _passed(node, Cause.DRAINING, "it is draining")
        elif self._held.is_stale(node):  # 3
            passed = _passed(
                node, Cause.STALE, f"it is past revision {node.revision}, the last that is known"
            )
        return passed

    def _there(self, node: KnownNode, model: ModelView, holds: NodeHolds) -> Option | Passed:
        """Price a model where it is loaded already, or is about to be."""
        begun = holds.loads.get(model.model_id)
        device_id = begun.device_id if begun is not None else model.device_id
        if device_id is None:  # its load has only begun, and its worker will choose
            device_id = next(iter(node.order), "")
        device = node.devices.get(device_id)
        if device is None or not self._will_do(device):  # 5
            return _passed(node, Cause.NO_DEVICE, f"{model.model_id!r} is on {device_id} there")
        wait, step = self._turn_ms(device, holds), Step.LOADED  # 6
        if model.state is not ModelState.LOADED:  # 7
            ready = model.ready_in_ms if begun is None else begun.wait_ms + begun.load_ms
            wait, step = max(ready, wait), Step.LOADING
        distance = self.distance(node, self.start)
        return Option(level_of(wait), _RANKS[step], distance, node, device_id, step, wait, wait)

    def _turn_ms(self, device: DeviceView, holds: NodeHolds) -> float:
        if not self._request.new_use:
            return 0.0
        return turn_ms(device, holds.uses.get(device.device_id, 0), self._usual)

    def _will_do(self, device: DeviceView) -> bool:
        request = self._request
        named = request.device_id is None or request.device_id == device.device_id
        return named and (request.kind is None or request.kind is device.kind)

    def _cheapest(self, node: KnownNode, model: ModelView | None, holds: NodeHolds) -> Option | Passed:
        """Price the devices of a node: those of its first one's kind, and the others where it has none there."""
        request = self._request
        devices = self._devices(node, model)
        if not devices:  # 5
            return _passed(node, Cause.NO_DEVICE, f"it has no {self._asked(model)} that can be asked")
        size = request.required_bytes
        if size is None:
            size = (model.size_bytes if model is not None else None) or 0
        best: Option | None = None
        for device in devices:
            elsewhere = device.kind is not devices[0].kind
            if elsewhere and best is not None:
                break
            option = self._on(node, device, model, holds, size, elsewhere=elsewhere)
            if option is not None and (best is None or option.price_ms < best.price_ms):
                best = option
        if best is not None:
            return best
        why = "; ".join(self._no_room(node, device, size, holds) for device in devices)  # 11
        totals = [each.total_bytes for each in node.devices.values()]
        too_large = all(total is not None and total < size for total in totals)
        return _passed(node, Cause.TOO_LARGE if too_large else Cause.NO_ROOM, why)

    def _on(
        self,
        node: KnownNode,
        device: DeviceView,
        model: ModelView | None,
        holds: NodeHolds,
        size: int,
        *,
        elsewhere: bool,
    ) -> Option | None:
        """Price one device; None where it does not fit there."""
        taken = holds.bytes_by_device.get(device.device_id, 0)
        step, wait, load, room = Step.FITS_ELSEWHERE if elsewhere else Step.FITS, 0.0, 0.0, 0.0  # 8
        if device.available_bytes is None:  # 9
            step = Step.FITS_ELSEWHERE if elsewhere else Step.UNKNOWN_HEADROOM
        elif (missing := size + taken - device.available_bytes) > 0:
            curve = node.curve(device)
            after = curve.cost_ms(missing) if self._request.make_room and not elsewhere else None
            if after is None:
                return None
            room = after - (curve.cost_ms(missing - size) or 0.0)
            step = Step.MAKES_ROOM  # 10
        if model is not None:
            load = load_ms(model, model.size_bytes or size)
            queue = device.queue_ms + holds.queue_ms.get(device.device_id, 0.0)
            wait = max(queue, self._turn_ms(device, holds) - load)  # it is loaded while others work
        price = wait + load + room
        level = level_of(price) + (_ELSEWHERE if elsewhere else 0)
        distance = self.distance(node, self.load_start)
        return Option(level, NEW, distance, node, device.device_id, step, price, wait, load, room, size)

    def _devices(self, node: KnownNode, model: ModelView | None) -> list[DeviceView]:
        """Return the devices that will do, the node's own choice first."""
        request = self._request
        if request.device_id is not None:
            ids: tuple[str, ...] = (request.device_id,)
        elif model is not None and model.devices:
            ids = model.devices
        elif model is None and request.kind is None:
            ids = node.order[:1]
        else:
            ids = node.order
        if model is not None and model.devices and request.device_id is not None:
            ids = tuple(each for each in ids if each in model.devices)
        there = (node.devices[each] for each in ids if each in node.devices)
        return [each for each in there if each.state is DeviceState.AVAILABLE and self._will_do(each)]

    def _asked(self, model: ModelView | None) -> str:
        if self._request.device_id is not None:
            return self._request.device_id
        if self._request.kind is not None:
            return f"{self._request.kind} device"
        return " or ".join(model.devices) if model is not None and model.devices else "device"

    def _no_room(self, node: KnownNode, device: DeviceView, size: int, holds: NodeHolds) -> str:
        taken = holds.bytes_by_device.get(device.device_id, 0)
        available = max(0, (device.available_bytes or 0) - taken)
        most = f"{node.curve(device).most_bytes:,} more at most by making room"
        more = most if self._request.make_room else "no room may be made"
        return f"{device.device_id}: {size:,} bytes needed, {available:,} available, {more}"


def _passed(node: KnownNode, cause: Cause, why: str) -> Passed:
    return Passed(node.node_id, cause, f"{node.node_id}: {why}")

"""Many known nodes, kept so that the best of a thousand is found without pricing them all. Pure; its owner locks.

Rows of figures stand beside the nodes, a figure a node: what loading a model takes there, what room for about so many
bytes costs, how long a turn takes. Added up they are the least that each node may cost. Only those that may be the best
are priced (``options``), so the decision is that of ``placement.place``.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import inf, log2

from protocol.vocabulary import DeviceState, FileLocation
from worker.fleet.known import KnownNode
from worker.fleet.options import NEW, THERE, Option, Pricing
from worker.fleet.placement import Placement, decided, place_among
from worker.fleet.pricing import UNMEASURED, Work, level_end, level_of, load_ms, turn_ms
from worker.fleet.reservations import Reservations
from worker.fleet.views import DeviceView, ModelView, NodeChange, NodeView, PlacementRequest

SCANNED = 16
"""So few nodes are all priced: rows would take longer."""

_SIZES_PER_OCTAVE = 4
_SURELY = 1 - 1e-9
"""Sums may come out differently in their last bits."""

_Rooms = tuple[tuple[str, ...], int]
"""On which devices, none for the node's own choice, and for which size."""


class Candidates:
    """All nodes that are known, and what was placed on them since their last views."""

    def __init__(self, *, scanned: int = SCANNED) -> None:
        """Take how many nodes are simply all priced."""
        self._scanned = scanned
        # All mutable state: the nodes on the ring, where each is, and where each model is loaded or about to be; the
        # rows, a figure a node in the order of the ring, those of models and sizes made when they are asked for; and
        # of models that have rows the smallest size and the devices, None for different ones; what devices measured of
        # leases, and the least that is expected by it.
        self.reservations = Reservations()
        self._ring: list[KnownNode] = []
        self._index: dict[str, int] = {}
        self._there: defaultdict[str, set[str]] = defaultdict(set)
        self._turns: list[float] = []
        self._queues: list[float] = []
        self._loads: dict[str, list[float]] = {}
        self._rooms: dict[_Rooms, list[float]] = {}
        self._works: dict[str, Work] = {}
        self._work = Work()
        self._usual = UNMEASURED.bound
        self._needs: dict[str, tuple[int, tuple[str, ...] | None]] = {}

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def nodes(self) -> Sequence[KnownNode]:
        """All of them, in the order of the ring."""
        return self._ring

    def get(self, node_id: str) -> KnownNode | None:
        """Return a node; None for one that is not known."""
        index = self._index.get(node_id)
        return None if index is None else self._ring[index]

    def update(self, view: NodeView) -> None:
        """Take over a node's whole view, no older than the one before. Its lease stays as it is where the view has none."""
        node, before = KnownNode(view), self.get(view.node_id)
        if before is None:
            self._insert(node)
        else:
            self._ring[self._index[node.node_id]] = node
            self._forget_models(before)
            if view.leased_until_ns is None:
                node.leased_until_ns = before.leased_until_ns
            if before.incarnation != node.incarnation:
                self.reservations.lost(node.node_id)
        self._note_models(node, node.models)
        self._note_devices(node)
        self.reservations.seen(node)

    def apply(self, change: NodeChange) -> bool:
        """Take over what became different. False where it does not follow on what is known: the node's whole view is needed."""
        node = self.get(change.node_id)
        drained = node is not None and node.draining
        if node is None or not node.apply(change):
            return False
        self._note_models(node, (*(each.model_id for each in change.models), *change.models_gone))
        if change.devices or change.models or drained is not change.draining:
            self._note_devices(node)
        self.reservations.seen(node)
        return True

    def renew(self, node_id: str, leased_until_ns: int) -> None:
        """Note until when a node's lease with the directory lasts; nothing for one that is not known."""
        node = self.get(node_id)
        if node is not None:
            node.leased_until_ns = leased_until_ns

    def remove(self, node_id: str) -> None:
        """Forget a node, and what was placed on it."""
        node = self.get(node_id)
        if node is not None:
            self._forget_models(node)
            self._note_work(node_id, Work())
            index = self._index[node_id]
            del self._ring[index]
            for row in (self._turns, self._queues, *self._loads.values(), *self._rooms.values()):
                del row[index]
            self._reindex()
        self.reservations.lost(node_id)

    def place(self, request: PlacementRequest, now_ns: int = 0) -> Placement:
        """Decide where a request goes, as ``placement.place`` does by these nodes and reservations.

        At a thousand nodes in well below a millisecond, but for requests that name a device or a kind of device
        without a node, which all nodes are priced for.
        """
        special = (request.node_id, request.device_id, request.kind) != (None, None, None)
        if special or len(self._ring) <= self._scanned:
            return place_among(request, self._ring, self.reservations, now_ns)
        usual = self._work.usual
        if not self._usual.bounds(usual):
            self._usual = usual.bound
            self._turns = [self._turn_floor(node) for node in self._ring]
        pricing = Pricing(request, self.reservations, now_ns, usual, self._index)
        search = _Search(self._ring, pricing)
        if request.model_id is None:
            search.run(self._floors_of_bytes(request.required_bytes or 0), pricing.load_start, NEW)
        else:
            there = self._where(request.model_id)
            if there:
                turns = [inf] * len(self._ring)
                for index in there:
                    turns[index] = self._turns[index] if request.new_use else 0.0
                search.run(turns, pricing.start, 0)
            if not search.is_below(min(self._load_row(request.model_id), default=inf)):
                floors = self._floors_of_load(request, search.end)
                for index in there:
                    floors[index] = inf
                search.run(floors, pricing.load_start, NEW)
        if search.best is None:  # at most on another kind of device, which rows leave out
            return place_among(request, self._ring, self.reservations, now_ns)
        return decided(request, self._ring, pricing, search.best)

    def _where(self, model_id: str) -> list[int]:
        """Return the nodes where a model is loaded or about to be, by their views and by what was placed since."""
        names = set(self._there.get(model_id, ()))
        names.update(
            each for each in self.reservations.taken_on() if model_id in self.reservations.of(each).loads
        )
        return [self._index[each] for each in names if each in self._index]

    def _floors_of_bytes(self, size_bytes: int) -> list[float]:
        floors = list(self._room_row((), size_bytes))
        for index in self._held():
            floors[index] = 0.0
        return floors

    def _floors_of_load(self, request: PlacementRequest, end: float) -> list[float]:
        """Return the least that loading a model may cost, node by node; infinite where it is ``end`` or more for its load alone."""
        model_id = request.model_id or ""
        loads = self._load_row(model_id)
        size, devices = self._needs.get(model_id, (0, ()))
        if request.required_bytes is not None:
            size = request.required_bytes
        rooms = [0.0] * len(loads) if devices is None else self._room_row(devices, size)
        turns = self._turns if request.new_use else [0.0] * len(loads)
        floors = [inf] * len(loads)
        for index, load in enumerate(loads):
            if load < end:
                wait, turn = load + self._queues[index], turns[index]
                floors[index] = rooms[index] + (max(turn, wait))
        for index in self._held():
            if loads[index] < end:
                floors[index] = loads[index]
        return floors

    def _held(self) -> Iterable[int]:
        """Return the nodes whose room is not as their views say."""
        held = self.reservations
        return (
            self._index[each]
            for each in held.taken_on()
            if each in self._index and held.of(each).bytes_by_device
        )

    def _load_row(self, model_id: str) -> list[float]:
        row = self._loads.get(model_id)
        if row is None:
            models = [node.models.get(model_id) for node in self._ring]
            row = list(map(_load_floor, models))
            if min(row, default=inf) < inf:  # a name that no node knows leaves nothing behind
                self._loads[model_id] = row
                known = [each for each in models if each is not None]
                devices = {each.devices for each in known}
                size = min(each.size_bytes or 0 for each in known)
                self._needs[model_id] = size, devices.pop() if len(devices) == 1 else None
        return row

    def _room_row(self, devices: tuple[str, ...], size_bytes: int) -> list[float]:
        bucket = int(_SIZES_PER_OCTAVE * log2(size_bytes)) if size_bytes > 0 else -1
        row = self._rooms.get((devices, bucket))
        if row is None:
            row = [_room_floor(node, devices, bucket) for node in self._ring]
            self._rooms[devices, bucket] = row
        return row

    def _insert(self, node: KnownNode) -> None:
        key = node.place, node.node_id
        index = bisect_left(self._ring, key, key=lambda each: (each.place, each.node_id))
        self._ring.insert(index, node)
        self._turns.insert(index, self._turn_floor(node))
        self._queues.insert(index, _queue_floor(node))
        for model_id, row in self._loads.items():
            row.insert(index, _load_floor(node.models.get(model_id)))
        for (devices, bucket), row in self._rooms.items():
            row.insert(index, _room_floor(node, devices, bucket))
        self._reindex()

    def _reindex(self) -> None:
        self._index = {node.node_id: index for index, node in enumerate(self._ring)}

    def _note_devices(self, node: KnownNode) -> None:
        index = self._index[node.node_id]
        self._note_work(node.node_id, Work.of(node.devices.values()))
        self._turns[index] = self._turn_floor(node)
        self._queues[index] = _queue_floor(node)
        for (devices, bucket), row in self._rooms.items():
            row[index] = _room_floor(node, devices, bucket)

    def _turn_floor(self, node: KnownNode) -> float:
        turns = (turn_ms(each, usual=self._usual) for each in node.devices.values())
        return inf if node.draining else min(turns, default=inf)

    def _note_work(self, node_id: str, work: Work) -> None:
        self._work = self._work.plus(self._works.pop(node_id, Work()), -1).plus(work)
        if work != Work():
            self._works[node_id] = work

    def _note_models(self, node: KnownNode, model_ids: Iterable[str]) -> None:
        index = self._index[node.node_id]
        for model_id in model_ids:
            model = node.models.get(model_id)
            if model is not None and model.state in THERE:
                self._there[model_id].add(node.node_id)
            elif model_id in self._there:
                self._there[model_id].discard(node.node_id)
            row = self._loads.get(model_id)
            if row is not None:
                row[index] = _load_floor(model)
                self._note_need(model)

    def _note_need(self, model: ModelView | None) -> None:
        if model is not None:
            size, devices = self._needs.get(model.model_id, (model.size_bytes or 0, model.devices))
            same = model.devices if devices == model.devices else None
            self._needs[model.model_id] = min(size, model.size_bytes or 0), same

    def _forget_models(self, node: KnownNode) -> None:
        index = self._index[node.node_id]
        for model_id in node.models:
            self._there[model_id].discard(node.node_id)
            if model_id in self._loads:
                self._loads[model_id][index] = inf


class _Search:
    """The best option found so far, and what may still be better."""

    def __init__(self, ring: list[KnownNode], pricing: Pricing) -> None:
        self._ring = ring
        self._pricing = pricing
        self.best: Option | None = None

    @property
    def end(self) -> float:
        """Where what costs so much or more can't be better than the best; infinite where that is a last resort."""
        best = self.best
        if best is None or best.level != level_of(best.price_ms):
            return inf
        return level_end(best.level) / _SURELY

    def is_below(self, least_ms: float) -> bool:
        """Tell whether the best is better than any new place that costs so much or more."""
        best = self.best
        return least_ms == inf or (
            best is not None and (best.level, best.rank) < (level_of(least_ms * _SURELY), NEW)
        )

    def run(self, floors: list[float], start: int, rank: int) -> None:
        """Price nodes from the lowest floor up, on each level around the ring from ``start``, until none can be better.

        ``floors``: the least that each may cost, infinite for those left out; changed here. ``rank``: the first
        that any of them may have.
        """
        while (least := min(floors, default=inf) * _SURELY) < inf:
            level = level_of(least)
            if self.best is not None and self.best[:2] < (level, rank):
                return
            end = level_end(level) / _SURELY
            for index in _from(start, [each for each, floor in enumerate(floors) if floor < end]):
                node = self._ring[index]
                bound = (level, rank, self._pricing.distance(node, start))
                if self.best is not None and self.best[:3] < bound:
                    return
                option = self._pricing.price(node)
                floors[index] = inf
                if isinstance(option, Option) and (self.best is None or option.key < self.best.key):
                    self.best = option


def _from(start: int, indices: list[int]) -> list[int]:
    """Return sorted indices from one on, around the ring."""
    cut = bisect_left(indices, start)
    return indices[cut:] + indices[:cut]


def _main(node: KnownNode, names: Iterable[str]) -> list[DeviceView]:
    """Return the devices where room may be made: those of the first one's kind."""
    there = [node.devices[each] for each in names if each in node.devices]
    there = [each for each in there if each.state is DeviceState.AVAILABLE]
    return [each for each in there if each.kind is there[0].kind]


def _queue_floor(node: KnownNode) -> float:
    return min((each.queue_ms for each in node.devices.values()), default=inf)


def _load_floor(model: ModelView | None) -> float:
    if model is None or model.refused is not None or model.file is FileLocation.ABSENT:
        return inf
    return load_ms(model, model.size_bytes or 0)


def _room_floor(node: KnownNode, devices: tuple[str, ...], bucket: int) -> float:
    size = int(2 ** (bucket / _SIZES_PER_OCTAVE) * _SURELY) if bucket >= 0 else 0
    floor = inf
    for device in _main(node, devices or node.order):
        missing = 0 if device.available_bytes is None else size - device.available_bytes
        cost = node.curve(device).cost_ms(missing) if missing > 0 else 0.0
        floor = floor if cost is None else min(floor, cost)
    return floor

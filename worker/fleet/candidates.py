"""Many known nodes, kept so that the best of a thousand is found without pricing them all. Pure; its owner locks.

Rows of figures stand beside the nodes, a figure a node: what loading a model takes there, what room for about so many
bytes costs, how long a turn takes. Added up they are the least that each node may cost. Only those that may be the best
are priced (``options``), so the decision is that of ``placement.place``. What a change or a placement makes of a row is
worked out once a decision needs it: turns for every node that it touched, room for those alone that may be the best.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import inf

from protocol.vocabulary import FileLocation, ModelState
from worker.fleet.known import KnownNode
from worker.fleet.options import NEW, THERE, Pricing
from worker.fleet.placement import Placement, decided, place_among
from worker.fleet.pricing import SURELY, UNMEASURED, Usual, Work, level_end, level_of, load_ms, turn_ms
from worker.fleet.reservations import Reservations
from worker.fleet.rooms import Rooms, bucket_of
from worker.fleet.searching import Search
from worker.fleet.views import ModelView, NodeChange, NodeView, PlacementRequest

SCANNED = 16
"""So few nodes are all priced: rows would take longer."""

_AT_A_TIME = 7
"""Levels of loads that are looked at together: half an octave."""


class Candidates:
    """All nodes that are known, and what was placed on them since their last views."""

    def __init__(self, *, scanned: int = SCANNED) -> None:
        """Take how many nodes are simply all priced."""
        self._scanned = scanned
        # All mutable state: the nodes on the ring, where each is, and where each model is loaded or about to be; the
        # rows, a figure a node in the order of the ring, those of models and sizes made when they are asked for, and loads also in
        # their own order, and the nodes whose turns are longer than their row says; and of models that have rows the smallest size and the devices, None for different ones; what devices measured of
        # leases, and the least that is expected by it.
        self.reservations = Reservations()
        self._ring: list[KnownNode] = []
        self._index: dict[str, int] = {}
        self._there: defaultdict[str, set[str]] = defaultdict(set)
        self._turns: list[float] = []
        self._short = set[str]()
        self._queues: list[float] = []
        self._loads: dict[str, list[float]] = {}
        self._orders: dict[str, list[int]] = {}
        self._rooms: dict[tuple[tuple[str, ...], int], Rooms] = {}
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
            for row in (self._turns, self._queues, *self._loads.values()):
                del row[index]
            for room in self._rooms.values():
                room.remove(index, node_id)
            self._short.discard(node_id)
            self._reindex()
        self.reservations.lost(node_id)

    def place(self, request: PlacementRequest, now_ns: int = 0) -> Placement:
        """Decide where a request goes, as ``placement.place`` does by these nodes and reservations.

        At a thousand nodes mostly in well below a millisecond, but for requests that name a device or a kind of device
        without a node, which all nodes are priced for.
        """
        special = (request.node_id, request.device_id, request.kind) != (None, None, None)
        if special or len(self._ring) <= self._scanned:
            return place_among(request, self._ring, self.reservations, now_ns)
        usual = self._work.usual
        self._note_turns(usual)
        pricing = Pricing(request, self.reservations, now_ns, usual, self._index)
        search = Search(self._ring, pricing)
        if request.model_id is None:
            self._search_room(search, request.required_bytes or 0)
        else:
            there = self._where(request.model_id)
            self._search_there(search, request, there)
            self._search_loads(search, request, there)
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

    def _search_there(self, search: Search, request: PlacementRequest, there: Iterable[int]) -> None:
        """Search the nodes that have a model, or are about to: the least there is until it is ready, and its turn has come."""
        ready = {each: self._ready_ms(self._ring[each], request.model_id or "") for each in there}
        if not request.new_use:
            search.run(ready, search.pricing.start, 0)
            return
        floors = {each: max(self._turns[each], least) for each, least in ready.items()}
        search.run(floors, search.pricing.start, 0, lambda each: self._late_turn(each, ready[each]))

    def _ready_ms(self, node: KnownNode, model_id: str) -> float:
        """Return until when a model is loaded on a node that has it, or is about to."""
        model, begun = node.models.get(model_id), self.reservations.of(node.node_id).loads.get(model_id)
        if model is None or model.state is ModelState.LOADED:
            return 0.0
        return model.ready_in_ms if begun is None else begun.wait_ms + begun.load_ms

    def _search_room(self, search: Search, size_bytes: int) -> None:
        room, held = self._room_row((), size_bytes), set(self._held())
        floors = dict(enumerate(room.floors)) | dict.fromkeys(held, 0.0)
        search.run(
            floors, search.pricing.load_start, NEW, lambda each: 0.0 if each in held else room.late(each)
        )

    def _search_loads(self, search: Search, request: PlacementRequest, there: Iterable[int]) -> None:
        """Search the nodes where a model has to be loaded, but those where its load alone costs too much."""
        model_id = request.model_id or ""
        row, order = self._order(model_id)
        size, devices = self._needs.get(model_id, (0, ()))
        size = size if request.required_bytes is None else request.required_bytes
        room = None if devices is None else self._room_row(devices, size)
        held, there = set(self._held()), frozenset(there)
        zeros, queues = [0.0] * len(self._ring), self._queues
        turns, rooms = self._turns if request.new_use else zeros, zeros if room is None else list(room.floors)
        for index in held:
            rooms[index] = 0.0

        def late(index: int) -> float:
            more = 0.0 if room is None or index in held else room.late(index)
            return more + self._late_turn(index, row[index] + queues[index]) if request.new_use else more

        floors: dict[int, float] = {}
        taken = 0
        while taken < len(order) and not search.is_below(row[order[taken]]):
            begin, most = taken, level_end(level_of(row[order[taken]]) + _AT_A_TIME)
            taken = bisect_left(order, min(most, search.end), begin + 1, key=row.__getitem__)
            below = level_of(row[order[taken]] * SURELY) if taken < len(order) else inf
            floors |= {
                index: rooms[index]
                + (turn if (turn := turns[index]) > (wait := row[index] + queues[index]) else wait)
                for index in order[begin:taken]
                if index not in there
            }
            search.run(floors, search.pricing.load_start, NEW, late, below)

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
            row = [node.load_floors.get(model_id, inf) for node in self._ring]
            if min(row, default=inf) < inf:  # a name that no node knows leaves nothing behind
                self._loads[model_id] = row
        return row

    def _order(self, model_id: str) -> tuple[list[float], list[int]]:
        """Return what loading a model takes on each node, and in that order the nodes where it can be loaded."""
        row, order = self._load_row(model_id), self._orders.get(model_id)
        if order is None:  # of numbers alone: a thousand pairs have Python look for garbage
            order = sorted((each for each, load in enumerate(row) if load < inf), key=row.__getitem__)
            if order:
                self._orders[model_id] = order
        return row, order

    def _note_load(self, model_id: str, index: int, load: float) -> None:
        row, order = self._loads[model_id], self._orders.get(model_id)
        before, row[index] = row[index], load
        if order is not None and before != load:
            if before < inf:
                order.remove(index)
            if load < inf:
                insort(order, index, key=row.__getitem__)

    def _room_row(self, devices: tuple[str, ...], size_bytes: int) -> Rooms:
        bucket = bucket_of(size_bytes)
        row = self._rooms.get((devices, bucket))
        if row is None:
            row = self._rooms[devices, bucket] = Rooms(self._ring, devices, bucket)
        return row

    def _insert(self, node: KnownNode) -> None:
        key = node.place, node.node_id
        index = bisect_left(self._ring, key, key=lambda each: (each.place, each.node_id))
        self._ring.insert(index, node)
        self._turns.insert(index, self._turn_floor(node))
        self._queues.insert(index, _queue_floor(node))
        for row in self._loads.values():
            row.insert(index, inf)
        for room in self._rooms.values():
            room.insert(index, node.node_id)
        self._reindex()

    def _reindex(self) -> None:
        self._orders.clear()
        self._index = {node.node_id: index for index, node in enumerate(self._ring)}

    def _note_devices(self, node: KnownNode) -> None:
        index = self._index[node.node_id]
        self._note_work(node.node_id, Work.of(node.devices.values()))
        self.reservations.changed.add(node.node_id)
        self._queues[index] = _queue_floor(node)
        for room in self._rooms.values():
            room.changed(index, node.node_id)

    def _note_turns(self, usual: Usual) -> None:
        """Take over what was placed and answered since the last decision, and what is expected now of leases.

        Where turns are longer than was expected, what they were is still the least: each is worked out once a decision comes to it.
        """
        changed = self.reservations.changed
        if not self._usual.bounds(usual):
            self._usual = usual.bound
            changed.update(self._index)
        elif not self._usual.is_close(usual):
            self._usual = self._usual.higher(usual.bound)
            self._short.update(self._index)
        for index in [self._index[each] for each in changed if each in self._index]:
            self._turns[index] = self._turn_floor(self._ring[index])
        self._short -= changed
        changed.clear()

    def _late_turn(self, index: int, least_ms: float) -> float:
        """Work a node's turn out. Returns by how much what takes that long, or the least that is given, is longer now."""
        node, before = self._ring[index], self._turns[index]
        if node.node_id not in self._short:
            return 0.0
        self._short.discard(node.node_id)
        now = self._turns[index] = self._turn_floor(node)
        return max(now, least_ms) - max(before, least_ms)

    def _turn_floor(self, node: KnownNode) -> float:
        if node.draining:
            return inf
        ahead = self.reservations.of(node.node_id).uses
        return min(
            (turn_ms(each, ahead.get(name, 0), self._usual) for name, each in node.devices.items()),
            default=inf,
        )

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
            floor = _load_floor(model)
            if floor < inf:
                node.load_floors[model_id] = floor
            else:
                node.load_floors.pop(model_id, None)
            if model is not None:
                self._note_need(model)
            if model_id in self._loads:
                self._note_load(model_id, index, floor)

    def _note_need(self, model: ModelView) -> None:
        size, known = model.size_bytes or 0, self._needs.get(model.model_id)
        if known is None:
            self._needs[model.model_id] = size, model.devices
        elif size < known[0] or known[1] not in {None, model.devices}:
            self._needs[model.model_id] = (
                min(size, known[0]),
                model.devices if known[1] == model.devices else None,
            )

    def _forget_models(self, node: KnownNode) -> None:
        index = self._index[node.node_id]
        for model_id in node.models:
            self._there[model_id].discard(node.node_id)
            if model_id in self._loads:
                self._note_load(model_id, index, inf)


def _queue_floor(node: KnownNode) -> float:
    return min((each.queue_ms for each in node.devices.values()), default=inf)


def _load_floor(model: ModelView | None) -> float:
    if model is None or model.refused is not None or model.file is FileLocation.ABSENT:
        return inf
    return load_ms(model, model.size_bytes or 0)

"""The nodes of a simulated fleet, and the clock that moves them."""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.fleet_placement.demand import Demand, Machine, Model, Request
from worker.eviction.use_rate import UseRate


@dataclass
class Resident:
    model: Model
    load_s: float
    ready_at: float
    last_used: float
    in_use: int = 0
    """Requests that work with it, or wait to."""
    ready: bool = False


class Node:
    """One machine: loads one model after the other, works on as many requests as it has slots, in order of arrival."""

    def __init__(self, machine: Machine, *, by_price: bool) -> None:
        self.machine = machine
        self.by_price = by_price
        self.alive = True
        self.start = 0
        self.clear()

    def clear(self) -> None:
        self.start += 1
        self.free = self.machine.capacity
        self.residents: dict[str, Resident] = {}
        self.loader_free_at = 0.0
        self.working = 0
        self.in_flight = 0
        self.queue: deque[Request] = deque()
        self.waiting: dict[str, list[Request]] = {}
        self.assigned: dict[int, Request] = {}
        self.rates: dict[str, UseRate] = {}
        self.changed: set[str] = set()
        """Models that came or went since they were last asked for."""

    def price_s(self, resident: Resident, now: float) -> float:
        """What losing it costs by the worker's own price: its load, by the uses expected in ten minutes."""
        rate = self.rates.get(resident.model.name)
        return resident.load_s * (rate.expected(int(now * 1e9)) if rate is not None else 0.0)

    def victims(self, now: float) -> list[Resident]:
        """What may go, in the order in which it does."""
        idle = [each for each in self.residents.values() if each.ready and not each.in_use]
        if self.by_price:
            return sorted(idle, key=lambda each: self.price_s(each, now) / each.model.size)
        return sorted(idle, key=lambda each: each.last_used)

    def could_free(self, now: float) -> int:
        return self.free + sum(each.model.size for each in self.victims(now))


@dataclass
class Outcome:
    waits: dict[int, float] = field(default_factory=dict)
    """Seconds from a request's arrival to its work, by number."""
    reload_s: float = 0.0
    loads: int = 0
    refused: int = 0


class World:
    """A fleet in time. A rule is asked for each request, and told what becomes of nodes."""

    def __init__(self, demand: Demand, *, by_price: bool) -> None:
        self.demand = demand
        self.now = 0.0
        self.nodes = {each.name: Node(each, by_price=by_price) for each in demand.machines}
        self.where: dict[str, dict[str, Node]] = {each.name: {} for each in demand.models}
        self.outcome = Outcome()
        self.counted_from = demand.seconds / 4
        self.touched: Callable[[Node], None] = lambda _: None
        self.done: Callable[[Request], None] = lambda _: None
        self.lost: Callable[[Node, list[Request]], None] = lambda _, __: None
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0

    @property
    def now_ns(self) -> int:
        """The time in whole nanoseconds: exactly so many as an event's that was made from some."""
        return round(self.now * 1e9)

    def at(self, when: float, do: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, do))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, do = heapq.heappop(self._events)
            do()

    def assign(self, request: Request, node: Node) -> bool:
        """Give a request to a node. False where it has no room for its model, and nothing that may go."""
        model = request.model
        resident = node.residents.get(model.name)
        if not node.alive:
            return False
        if resident is None:
            resident = self.load(model, node)
            if resident is None:
                self.outcome.refused += 1
                return False
        resident.in_use += 1
        resident.last_used = self.now
        node.rates.setdefault(model.name, UseRate()).used(int(self.now * 1e9))
        node.in_flight += 1
        node.assigned[request.number] = request
        if resident.ready:
            node.queue.append(request)
            self._work(node)
        else:
            node.waiting.setdefault(model.name, []).append(request)
        self.touched(node)
        return True

    def load(self, model: Model, node: Node) -> Resident | None:
        """Begin to load a model on a node, in the place of what goes for it. None where too little may go."""
        missing = model.size - node.free
        going = []
        if missing > 0:
            for victim in node.victims(self.now):
                going.append(victim)
                missing -= victim.model.size
                if missing <= 0:
                    break
            if missing > 0:
                return None
        for victim in going:
            del node.residents[victim.model.name]
            del self.where[victim.model.name][node.machine.name]
            node.changed.add(victim.model.name)
            node.free += victim.model.size
        node.free -= model.size
        load = node.machine.load_s(model)
        begins = max(self.now, node.loader_free_at)
        node.loader_free_at = begins + load
        resident = node.residents[model.name] = Resident(model, load, begins + load, self.now)
        self.where[model.name][node.machine.name] = node
        node.changed.add(model.name)
        if self.now >= self.counted_from:
            self.outcome.reload_s += load
            self.outcome.loads += 1
        start = node.start

        def ready() -> None:
            if node.start == start:
                resident.ready = True
                node.changed.add(model.name)
                node.queue.extend(node.waiting.pop(model.name, ()))
                self._work(node)
                self.touched(node)

        self.at(begins + load, ready)
        return resident

    def _work(self, node: Node) -> None:
        while node.queue and node.working < node.machine.slots:
            request = node.queue.popleft()
            node.working += 1
            if request.at >= self.counted_from:
                self.outcome.waits[request.number] = self.now - request.at
            self.at(self.now + request.work_s, self._done(node, request))

    def _done(self, node: Node, request: Request) -> Callable[[], None]:
        start = node.start

        def done() -> None:
            if node.start != start:
                return
            node.working -= 1
            node.in_flight -= 1
            del node.assigned[request.number]
            resident = node.residents[request.model.name]
            resident.in_use -= 1
            self.done(request)
            self._work(node)
            self.touched(node)

        return done

    def fail(self, node: Node) -> None:
        """Lose a node with all that it had: what it worked on is asked for again."""
        for name in node.residents:
            del self.where[name][node.machine.name]
        again = list(node.assigned.values())
        node.alive = False
        node.clear()
        self.lost(node, again)

    def back(self, node: Node) -> None:
        node.alive = True
        node.changed.update(each.name for each in self.demand.models)
        self.touched(node)

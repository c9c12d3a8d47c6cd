"""The worker's own placement in a simulated fleet: gateways that know nodes by what these told, when it was worth telling."""

import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterator

from benchmarks.fleet_placement.demand import Model, Request
from benchmarks.fleet_placement.rules import Rule
from benchmarks.fleet_placement.world import Node, World
from protocol.vocabulary import DeviceKind, ModelState
from worker.fleet.candidates import Candidates
from worker.fleet.changes import EVERY_NS, RENEW_NS, Outbox
from worker.fleet.pace import Pace
from worker.fleet.views import (
    DeviceView,
    ModelView,
    NodeChange,
    NodeView,
    PlacementRequest,
    PriceStep,
    others_only,
)
from worker.fleet.words import Told as TellsDirectory

GATEWAYS = 2
DELAY_S = 0.005
"""From a node to the gateways, by way of the directory."""

NEVER_NS = 1 << 62
DEVICE = "cuda:0"

TRIES = 8


def gateway_of(request: Request) -> str:
    """Return through which gateway a request comes."""
    return str(request.number % GATEWAYS)


class Told:
    """What one node tells, as its worker's figures have it, and as it measures the work on it."""

    def __init__(self, node: Node, models: tuple[Model, ...], clock: Callable[[], float]) -> None:
        self.node = node
        self.pace = Pace(clock)
        self.outbox = Outbox()
        self.refused = False
        self.at_ns, self.due_ns = -EVERY_NS, NEVER_NS
        self.bytes = 0
        self._unloaded = {each.name: self._unloaded_view(each) for each in models}
        self._views = dict(self._unloaded)
        self._models = tuple(self._views.values())
        self._start = node.start

    def _unloaded_view(self, model: Model) -> ModelView:
        return ModelView(model.name, size_bytes=model.size, load_ms=1000 * self.node.machine.load_s(model))

    def view(self, now: float) -> NodeView:
        node = self.node
        if node.changed or node.start != self._start:
            if node.start != self._start:
                self._views, self._start = dict(self._unloaded), node.start
            for name in node.changed:
                resident = node.residents.get(name)
                if resident is None:
                    self._views[name] = self._unloaded[name]
                else:
                    state = ModelState.LOADED if resident.ready else ModelState.LOADING
                    before = self._unloaded[name]
                    self._views[name] = ModelView(
                        name,
                        state,
                        before.size_bytes,
                        DEVICE,
                        load_ms=before.load_ms,
                        ready_in_ms=max(0.0, 1000 * (resident.ready_at - now)),
                    )
            node.changed.clear()
            self._models = tuple(self._views.values())
        steps = tuple(
            PriceStep(each.model.size, 1000 * node.price_s(each, now), model_id=each.model.name)
            for each in node.victims(now)
        )
        self.pace.loaded((self._views[each] for each in node.residents), (DEVICE,))
        device = DeviceView(
            DEVICE,
            DeviceKind.CUDA,
            node.machine.capacity,
            node.free,
            steps,
            queue_ms=max(0.0, 1000 * (node.loader_free_at - now)),
            in_use=node.in_flight,
            placed=tuple(Counter(gateway_of(each) for each in node.assigned.values()).items()),
            **self.pace.of(DEVICE)._asdict(),
        )
        return NodeView(node.machine.name, str(node.start), 0, (device,), self._models)


class Ours(Rule):
    """``worker.fleet.Candidates`` by views as old as they are."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        self.gateways = {str(number): self.gateway() for number in range(GATEWAYS)}
        self.keys: dict[int, tuple[str, str]] = {}
        """Of requests that are worked on: by which name, and on which node, they are counted."""
        self.told = {
            name: Told(node, world.demand.models, lambda: world.now) for name, node in world.nodes.items()
        }
        self.decision_s: list[float] = []
        world.touched = self._touched
        world.done = self._done
        for told in self.told.values():
            self._tell(told, delay_s=0.0)

    def gateway(self) -> Candidates:
        """Make what a gateway knows nodes by."""
        return Candidates()

    def _touched(self, node: Node) -> None:
        told = self.told[node.machine.name]
        due_ns = max(self.world.now_ns, told.at_ns + EVERY_NS)
        if told.due_ns > due_ns:
            self._schedule(told, due_ns)

    def _schedule(self, told: Told, due_ns: int) -> None:
        told.due_ns = due_ns
        self.world.at(due_ns / 1e9, lambda: self._tell(told) if told.due_ns == due_ns else None)

    def _tell(self, told: Told, delay_s: float = DELAY_S) -> None:
        world, node = self.world, told.node
        if not node.alive or world.now > world.demand.seconds * 1.5:
            told.outbox.forget()
            told.due_ns = NEVER_NS
            return
        message = told.outbox.next_message(told.view(world.now), world.now_ns, refused=told.refused)
        if message is not None:
            told.at_ns, told.refused = world.now_ns, False
            words = TellsDirectory(node.machine.name, message)
            told.bytes += len(pickle.dumps(words, 5)) if isinstance(message, NodeChange) else 0
            world.at(world.now + delay_s, lambda: self._hear(message))
        self._schedule(told, told.at_ns + RENEW_NS)

    def _hear(self, message: NodeView | NodeChange) -> None:
        for name, gateway in self.gateways.items():
            said = others_only(message, name)
            if isinstance(said, NodeView):
                gateway.update(said)
            else:
                gateway.apply(said)

    def forget(self, node: Node) -> None:
        """Take a node for lost."""
        for gateway in self.gateways.values():
            gateway.remove(node.machine.name)
        told = self.told[node.machine.name]
        told.outbox.forget()
        told.pace = Pace(lambda: self.world.now)

    def nodes(self, request: Request) -> Iterator[Node]:
        """Place, try, and place anew where it was refused."""
        gateway = self.gateways[gateway_of(request)]
        excluded: set[str] = set()
        for _ in range(TRIES):
            asked = PlacementRequest(
                request.model.name, excluded=frozenset(excluded), salt=str(request.number)
            )
            began = time.thread_time()
            chosen = gateway.place(asked, self.world.now_ns).chosen
            self.decision_s.append(time.thread_time() - began)
            if chosen is None:
                return
            key = f"{request.number}/{len(excluded)}"
            gateway.reservations.add(key, chosen, request.model.name, uses=True)
            told = self.told[chosen.node_id]
            self.last = (gateway, key, told, chosen, request)
            self.keys[request.number] = key, chosen.node_id
            yield told.node
            told.refused = True
            gateway.reservations.refused(key, chosen.node_id, str(told.node.start), told.outbox.next_revision)
            self._touched(told.node)
            excluded.add(chosen.node_id)

    def accepted(self) -> None:
        """Note that the node that was tried last took it."""
        gateway, key, told, chosen, request = self.last
        told.pace.begin(key, gateway_of(request), request.model.name)
        gateway.reservations.accepted(key, chosen.node_id, str(told.node.start), told.outbox.next_revision)

    def _done(self, request: Request) -> None:
        key, node_id = self.keys.pop(request.number)
        self.told[node_id].pace.end(key, done=True)
        self.gateways[gateway_of(request)].reservations.answered(key, node_id)

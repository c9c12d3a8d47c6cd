"""Rules that requests are placed by, for comparison. They know every node as it is at the moment, for nothing."""

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator

from benchmarks.fleet_placement.demand import Request
from benchmarks.fleet_placement.world import Node, World

REPLICAS_EVERY_S = 30.0


class Rule(ABC):
    """Where requests go."""

    by_price = True
    """Whether nodes evict by their own prices, as the worker does; else what was used longest ago."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.rng = random.Random(seed)

    @abstractmethod
    def nodes(self, request: Request) -> Iterator[Node]:
        """Give the nodes to be tried, in order."""

    def there(self, request: Request) -> list[Node]:
        return list(self.world.where[request.model.name].values())

    def able(self, request: Request) -> list[Node]:
        size = request.model.size
        return [each for each in self.world.nodes.values() if each.alive and each.machine.capacity >= size]


class LocalAI(Rule):
    """LocalAI's distributed mode: loaded with the fewest in flight, else free VRAM, idle nodes first, else the globally LRU."""

    by_price = False

    def nodes(self, request: Request) -> Iterator[Node]:
        name, size = request.model.name, request.model.size
        there = self.there(request)
        if there:
            yield min(there, key=lambda each: (each.in_flight, each.residents[name].last_used, -each.free))
            return
        able = self.able(request)
        fitting = [each for each in able if each.free >= size]
        idle = [each for each in fitting if not each.residents]
        if idle:
            yield max(idle, key=lambda each: each.free)
        elif fitting:
            yield min(fitting, key=lambda each: (each.in_flight, -each.free))
        oldest = [
            (resident.last_used, index)
            for index, node in enumerate(able)
            for resident in node.residents.values()
            if resident.ready and not resident.in_use
        ]
        for index in dict.fromkeys(index for _, index in sorted(oldest)):
            yield able[index]


class LocalAIByPrice(LocalAI):
    """The same, on nodes that evict by their own prices."""

    by_price = True


class LocalAIReplicas(LocalAI):
    """LocalAI's rule with replicas allowed for every model: one more each half minute while all of a model's are busy."""

    def __init__(self, world: World, seed: int) -> None:
        super().__init__(world, seed)
        world.at(REPLICAS_EVERY_S, self._reconcile)

    def _reconcile(self) -> None:
        world = self.world
        for model in world.demand.models:
            there = list(world.where[model.name].values())
            if there and all(each.residents[model.name].in_use for each in there):
                fitting = [
                    each
                    for each in world.nodes.values()
                    if each.alive and each.free >= model.size and each not in there
                ]
                if fitting:
                    node = min(fitting, key=lambda each: (each.in_flight, -each.free))
                    world.load(model, node)
                    world.touched(node)
        if world.now < world.demand.seconds:
            world.at(world.now + REPLICAS_EVERY_S, self._reconcile)


def _share(node: Node) -> float:
    return node.in_flight / node.machine.slots


class LeastLoaded(Rule):
    """A replica with a free slot, else the least loaded of all nodes."""

    def nodes(self, request: Request) -> Iterator[Node]:
        there = [each for each in self.there(request) if _share(each) < 1]
        if there:
            yield min(there, key=_share)
        able = self.able(request)
        self.rng.shuffle(able)
        yield from sorted(able, key=_share)
        yield from sorted(self.there(request), key=_share)


class RandomOfTwo(Rule):
    """The less loaded of two replicas with a free slot, drawn at random; else of two nodes."""

    def nodes(self, request: Request) -> Iterator[Node]:
        there = [each for each in self.there(request) if _share(each) < 1]
        if there:
            yield min(self.rng.choices(there, k=2), key=_share)
        able = self.able(request)
        while able:
            first, second = self.rng.choice(able), self.rng.choice(able)
            chosen = first if _share(first) <= _share(second) else second
            yield chosen
            able.remove(chosen)
        yield from sorted(self.there(request), key=_share)

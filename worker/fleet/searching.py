"""The best of many nodes by the least that each may cost: priced from there up, until none can be better. Pure."""

from collections.abc import Callable
from heapq import heapify, heappop, heapreplace
from math import inf

from worker.fleet.known import KnownNode
from worker.fleet.options import NEW, Option, Pricing
from worker.fleet.pricing import SURELY, level_end, level_of

_AT_A_TIME = 7
"""Levels that are searched at a time: half an octave."""


class Search:
    """The best option found so far, and what may still be better."""

    def __init__(self, ring: list[KnownNode], pricing: Pricing) -> None:
        """Take the nodes on their ring, and what prices them."""
        self._ring = ring
        self.pricing = pricing
        self.best: Option | None = None

    @property
    def end(self) -> float:
        """Where what costs so much or more can't be better than the best; infinite where that is a last resort."""
        best = self.best
        if best is None or best.level != level_of(best.price_ms):
            return inf
        return level_end(best.level) / SURELY

    def is_below(self, least_ms: float) -> bool:
        """Tell whether the best is better than any new place that costs so much or more."""
        best = self.best
        return least_ms == inf or (
            best is not None and (best.level, best.rank) < (level_of(least_ms * SURELY), NEW)
        )

    def run(
        self,
        floors: dict[int, float],
        start: int,
        rank: int,
        late: Callable[[int], float] = lambda _: 0.0,
        below: int | None = None,
    ) -> None:
        """Price nodes from the lowest floor up, on each level around the ring from ``start``, until none can be better.

        ``floors``: the least that each node may cost, but those left out; changed here. ``rank``: the first that any of
        them may have. ``late``: what comes to a node's floor once it is worked out, which is asked for no more nodes than needed.
        ``below``: the level where the search ends; the floors from there on are left as they are.
        """
        size = len(self._ring)
        while (least := min(floors.values(), default=inf) * SURELY) < inf:
            last = level_of(least) + _AT_A_TIME
            if below is not None:
                if level_of(least) >= below:
                    return
                last = min(last, below)
            end = level_end(last) / SURELY
            nodes = [
                (level_of(floor * SURELY), (index - start) % size, index)
                for index, floor in floors.items()
                if floor < end
            ]
            heapify(nodes)
            while nodes and nodes[0][0] < last:
                level, distance, index = nodes[0]
                if self.best is not None and self.best[:3] < (level, rank, distance):
                    return
                floors[index] += late(index)
                if floors[index] * SURELY < level_end(level):
                    heappop(nodes)
                    del floors[index]
                    self._price(self._ring[index])
                elif floors[index] < end:
                    heapreplace(nodes, (level_of(floors[index] * SURELY), distance, index))
                else:
                    heappop(nodes)

    def _price(self, node: KnownNode) -> None:
        option = self.pricing.price(node)
        if isinstance(option, Option) and (self.best is None or option.key < self.best.key):
            self.best = option

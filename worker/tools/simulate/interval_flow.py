"""The heaviest set of intervals of which only so many may overlap: a minimum-cost flow."""

import heapq
from collections.abc import Sequence

from protocol.record import Record

_FAR = 1 << 200
_WAIT = -1


class Interval(Record):
    """Something that may be kept: across the uses ``first`` to ``last``, all of them others'."""

    first: int
    last: int
    size_bytes: int
    saved: int
    """In whatever unit of time, the same for all."""


def heaviest_overlap(intervals: Sequence[Interval], uses: int, places: int) -> int:
    """Give the greatest ``saved`` of intervals of which no more than ``places`` cover any use. Exact."""
    flow = _Flow(intervals, uses)
    saved = 0
    for _ in range(places):
        gain = flow.add_path()
        if gain <= 0:
            break
        saved += gain
    return saved


class _Flow:
    """Successive shortest paths, one for each place.

    Nodes 0 to ``uses`` are the moments before each use. An interval leads from the moment before its
    first use to that after its last, once, at the negative of its saving; waiting leads to the next
    moment, any number of times, for nothing. Potentials keep reduced costs from falling below 0, so
    that every path is one Dijkstra run.
    """

    def __init__(self, intervals: Sequence[Interval], uses: int) -> None:
        self._intervals = intervals
        self._end = uses
        # Mutable: the residual graph, by add_path.
        self._free: list[list[int]] = [[] for _ in range(uses + 1)]
        """Intervals not taken, by the moment at which they start."""
        self._taken: list[list[int]] = [[] for _ in range(uses + 1)]
        """Intervals taken, by the moment at which they end."""
        self._waiting = [0] * uses
        for index, one in enumerate(intervals):
            self._free[one.first].append(index)
        self._potential = self._first_distances()

    def add_path(self) -> int:
        """Send one more place along the heaviest path and give what it saves."""
        distance, came = self._dijkstra()
        for node, length in enumerate(distance):
            self._potential[node] += length
        gain = self._potential[0] - self._potential[self._end]
        if gain > 0:
            node = self._end
            while node:
                node = self._turn(came[node], node)
        return gain

    def _turn(self, arc: tuple[int, int], node: int) -> int:
        """Take the arc that led to ``node``, or give it back where it led backward; give its origin."""
        origin, index = arc
        if index == _WAIT:
            if origin < node:
                self._waiting[origin] += 1
            else:
                self._waiting[node] -= 1
        elif origin < node:
            self._free[origin].remove(index)
            self._taken[node].append(index)
        else:
            self._taken[origin].remove(index)
            self._free[node].append(index)
        return origin

    def _first_distances(self) -> list[int]:
        """Give every moment's distance from the first: all arcs still lead onward, so one pass will do."""
        distance = [0] * (self._end + 1)
        for node in range(self._end):
            distance[node + 1] = min(distance[node + 1], distance[node])
            for index in self._free[node]:
                one = self._intervals[index]
                distance[one.last + 1] = min(distance[one.last + 1], distance[node] - one.saved)
        return distance

    def _dijkstra(self) -> tuple[list[int], list[tuple[int, int]]]:
        """Give the reduced distances from moment 0, and the arc (origin, interval) that leads to each."""
        potential = self._potential
        distance = [_FAR] * (self._end + 1)
        distance[0] = 0
        came = [(0, _WAIT)] * (self._end + 1)
        queue = [(0, 0)]
        while queue:
            length, node = heapq.heappop(queue)
            if length > distance[node]:
                continue
            for target, cost, index in self._arcs(node):
                reached = length + cost + potential[node] - potential[target]
                if reached < distance[target]:
                    distance[target] = reached
                    came[target] = (node, index)
                    heapq.heappush(queue, (reached, target))
        return distance, came

    def _arcs(self, node: int) -> list[tuple[int, int, int]]:
        """Give target, cost and interval of every way out of a moment."""
        arcs = []
        if node < self._end:
            arcs.append((node + 1, 0, _WAIT))
        if node and self._waiting[node - 1]:
            arcs.append((node - 1, 0, _WAIT))
        for index in self._free[node]:
            one = self._intervals[index]
            arcs.append((one.last + 1, -one.saved, index))
        for index in self._taken[node]:
            one = self._intervals[index]
            arcs.append((one.first, one.saved, index))
        return arcs

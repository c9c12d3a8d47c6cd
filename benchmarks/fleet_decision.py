"""How long a gateway takes to decide where a request goes, of a thousand nodes: through its own roster, as it is fed.

    python -m benchmarks.fleet_decision [--nodes 1000] [--shape drift]

The simulated fleet of ``benchmarks.placement``, but each of the two gateways is the one that Ray's would be: every word
of a node comes as news of the directory, and every decision is made and reserved under the roster's lock. Beside each
is the same decision by pricing every node (the floor of what could be saved), how many nodes were priced for it, and
the bytes that a node tells. Times are the deciding thread's processor time.
"""

import argparse
import statistics
import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from benchmarks import placement
from benchmarks.fleet_placement.demand import SHAPES, make
from benchmarks.fleet_placement.ours import Ours
from benchmarks.fleet_placement.world import World
from worker.fleet.machines import Machines
from worker.fleet.options import Pricing
from worker.fleet.placement import Placement, place_among
from worker.fleet.roster import Roster
from worker.fleet.views import Choice, NodeChange, NodeView, PlacementRequest
from worker.fleet.words import News, Since

_LEASE = 1e9
_EVERY_NTH = 50
"""Of the decisions, those that are made twice more: to count what is priced, and by pricing every node."""


class Played:
    """A gateway's roster, with the nodes of the simulation in place of Ray's."""

    def __init__(self) -> None:
        def nothing(*_: Any, **__: Any) -> None:
            return None

        handle = SimpleNamespace(watch=SimpleNamespace(remote=object))
        cluster: Any = SimpleNamespace(directory=nothing, node=lambda *_: handle)
        self.roster = Roster(Machines(cluster, dict, ()), "g", nothing, nothing, nothing)
        # A request is taken at once here and answered much later, which Roster.settle notes together, after Ray's answer.
        self.known = self.roster._candidates  # noqa: SLF001 - and only Ray tells a roster of a machine's end
        self.reservations = self
        self.decided_ms: list[float] = []
        self.priced_ms: list[float] = []
        self.priced: list[int] = []

    def update(self, view: NodeView) -> None:
        self._hear(view)

    def apply(self, change: NodeChange) -> None:
        self._hear(change)

    def remove(self, node_id: str) -> None:
        self.known.remove(node_id)

    def place(self, request: PlacementRequest, _now_ns: int) -> Placement:
        began = time.thread_time()
        placement = self.roster.place(request)
        self.decided_ms.append((time.thread_time() - began) * 1000)
        if len(self.decided_ms) % _EVERY_NTH == 0:
            with patch.object(Pricing, "price", autospec=True, side_effect=Pricing.price) as price:
                self.roster.place(request)
            self.priced.append(price.call_count)
            began = time.thread_time()
            every = place_among(request, self.known.nodes, self.known.reservations, time.monotonic_ns())
            self.priced_ms.append((time.thread_time() - began) * 1000)
            assert every.chosen == placement.chosen
        return placement

    def add(self, key: str, choice: Choice, model_id: str, *, uses: bool) -> None:
        self.roster.reserve(key, choice, PlacementRequest(model_id, new_use=uses))

    def accepted(self, key: str, node_id: str, incarnation: str, revision: int) -> None:
        self.known.reservations.accepted(key, node_id, incarnation, revision)

    def answered(self, key: str, node_id: str) -> None:
        self.known.reservations.answered(key, node_id)

    def refused(self, key: str, node_id: str, incarnation: str, revision: int) -> None:
        self.known.reservations.refused(key, node_id, incarnation, revision)

    def _hear(self, said: NodeView | NodeChange) -> None:
        self.roster.hear(News(Since(), (said,), {said.node_id: _LEASE}, ()))


class Through(Ours):
    """The same placement, through rosters."""

    def __init__(self, world: World, seed: int) -> None:
        self.made: list[Played] = []
        super().__init__(world, seed)

    def gateway(self) -> Any:
        self.made.append(Played())
        return self.made[-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--shape", choices=SHAPES, default="drift")
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    run = placement.Run(make(args.shape, args.nodes, args.seconds, 200), Through, 200)
    rule = run.rule
    assert isinstance(rule, Through)
    decided = sorted(each for gateway in rule.made for each in gateway.decided_ms)
    priced = statistics.median([each for gateway in rule.made for each in gateway.priced_ms])
    few = statistics.fmean(each for gateway in rule.made for each in gateway.priced)
    median, late = statistics.median(decided), decided[int(0.99 * len(decided))]
    print(
        f"{args.nodes} nodes, {args.shape}: {len(decided)} decisions, median {median:.2f} ms, p99 {late:.2f} ms"
    )
    print(
        f"pricing every node: {priced:.1f} ms, {priced / median:.0f} times as long; {few:.0f} priced on average"
    )
    print(f"a node tells {run.result().bytes_per_node_s:,.0f} bytes a second")


if __name__ == "__main__":
    main()

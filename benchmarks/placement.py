"""Placement over many nodes, simulated: reload time and waiting against other rules and a bound.

    python -m benchmarks.placement --nodes 10 100 --seeds 8

No Ray and no worker: the placement itself (``worker/fleet``), by views that are told as nodes tell them, with what they
measure of the work on them, on machines, models and requests made from seeds (``fleet_placement/demand.py``). The other rules
know every node as it is at the moment, and how many requests it works on at once, for nothing. Waiting is from a request's
arrival until it is worked on; the first quarter of the time fills the fleet and is not counted.
"""

import argparse
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

from benchmarks.fleet_placement.demand import SHAPES, Demand, Request, make
from benchmarks.fleet_placement.ours import Ours
from benchmarks.fleet_placement.rules import (
    LeastLoaded,
    LocalAI,
    LocalAIByPrice,
    LocalAIReplicas,
    RandomOfTwo,
    Rule,
)
from benchmarks.fleet_placement.world import Node, World

RULES: dict[str, type[Rule]] = {
    "ours": Ours,
    "LocalAI": LocalAI,
    "LocalAI, our eviction": LocalAIByPrice,
    "LocalAI, replicas": LocalAIReplicas,
    "least loaded": LeastLoaded,
    "random of two": RandomOfTwo,
}
SECONDS = {10: 900.0, 100: 200.0, 1000: 60.0}
RETRY_S = 0.25
RETRIED = 50
"""Of the requests that found no place, those that are offered again each time, the oldest first."""


@dataclass(frozen=True)
class Result:
    reload_s: float
    """Of loading, per request."""
    mean_s: float
    p99_s: float
    decision_ms: float = 0.0
    bytes_per_node_s: float = 0.0
    refused: int = 0


class Run:
    """One rule on one demand."""

    def __init__(self, demand: Demand, rule_type: type[Rule], seed: int) -> None:
        self.world = World(demand, by_price=rule_type.by_price)
        self.rule = rule_type(self.world, seed)
        self.pending: list[Request] = []
        self.end = demand.seconds * 1.5
        self.world.lost = self._lost
        for request in demand.requests:
            self.world.at(request.at, partial(self._ask, request))
        for when, name, back in demand.failures:
            self.world.at(when, partial(self.world.fail, self.world.nodes[name]))
            self.world.at(back, partial(self.world.back, self.world.nodes[name]))
        self._retry()
        self.world.run(self.end)

    def result(self) -> Result:
        outcome, demand = self.world.outcome, self.world.demand
        counted = [each for each in demand.requests if each.at >= self.world.counted_from]
        # What was never begun with waited at least until the end.
        waits = sorted(outcome.waits.get(each.number, self.world.now - each.at) for each in counted)
        result = Result(
            outcome.reload_s / len(counted),
            statistics.fmean(waits),
            waits[int(0.99 * len(waits))],
            refused=outcome.refused,
        )
        if isinstance(self.rule, Ours):
            told = self.rule.told.values()
            sent = sum(each.bytes for each in told) / len(told) / self.world.now
            decision = 1000 * statistics.median(self.rule.decision_s)
            result = replace(result, decision_ms=decision, bytes_per_node_s=sent)
        return result

    def _ask(self, request: Request) -> None:
        if not self._offer(request):
            self.pending.append(request)

    def _offer(self, request: Request) -> bool:
        for node in self.rule.nodes(request):
            if self.world.assign(request, node):
                if isinstance(self.rule, Ours):
                    self.rule.accepted()
                return True
        return False

    def _retry(self) -> None:
        first, self.pending = self.pending[:RETRIED], self.pending[RETRIED:]
        self.pending[:0] = [request for request in first if not self._offer(request)]
        if self.world.now < self.end:
            self.world.at(self.world.now + RETRY_S, self._retry)

    def _lost(self, node: Node, again: list[Request]) -> None:
        if isinstance(self.rule, Ours):
            self.rule.forget(node)
        for request in again:
            self._ask(request)


def bound(demand: Demand) -> Result:
    """Give what no placement can do better, whatever it loads: of loading, and of waiting, each by itself.

    Nothing is loaded before someone asks for it. So no copy of a model is ready before ``ready``: its first request, and
    its load on the machine where that is fastest. A request is not worked on before it comes, nor before that: it waits at
    least ``ready`` less its own arrival. Every wait is at least its bound, so the mean is, and so is every quantile. A model that is
    asked for the first time while it is counted is loaded at least once from then on, for no less than its fastest load.
    Machines are taken to have slots and memory without end, and never to fail, all of which can only make either less.
    """
    counted_from = demand.seconds / 4
    ready: dict[str, float] = {}
    waits, reload_s = [], 0.0
    for request in demand.requests:
        model = request.model
        if model.name not in ready:
            able = [each for each in demand.machines if each.capacity >= model.size]
            load_s = min(each.load_s(model) for each in able)
            ready[model.name] = request.at + load_s
            reload_s += load_s if request.at >= counted_from else 0.0
        if request.at >= counted_from:
            waits.append(max(0.0, ready[model.name] - request.at))
    waits.sort()
    return Result(reload_s / len(waits), statistics.fmean(waits), waits[int(0.99 * len(waits))])


def one(job: tuple[str, int, int, str]) -> Result:
    shape, nodes, seed, name = job
    demand = make(shape, nodes, SECONDS.get(nodes, 300.0), seed)
    return bound(demand) if name == "bound" else Run(demand, RULES[name], seed).result()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--rules", nargs="+", default=[*RULES, "bound"])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    print(f"{'':36}{'reload s/request':>18}{'mean wait s':>14}{'p99 wait s':>13}")
    with ProcessPoolExecutor(args.processes) as pool:
        for nodes, shape in product(args.nodes, args.shapes):
            seeds = range(args.first_seed, args.first_seed + args.seeds)
            jobs = [(shape, nodes, seed, name) for name in args.rules for seed in seeds]
            results = list(pool.map(one, jobs))
            for index, name in enumerate(args.rules):
                told(nodes, shape, name, results[index * args.seeds : (index + 1) * args.seeds])


def told(nodes: int, shape: str, name: str, results: list[Result]) -> None:
    """Print a rule's medians over the seeds, and in brackets its means."""
    figures = ""
    for figure, width in (("reload_s", 9), ("mean_s", 9), ("p99_s", 9)):
        values = [getattr(each, figure) for each in results]
        figures += f"{statistics.median(values):{width}.2f} ({statistics.fmean(values):7.2f})"
    if name == "ours":
        figures += f"   {statistics.median(each.decision_ms for each in results):.2f} ms a decision"
        figures += f", {statistics.median(each.bytes_per_node_s for each in results):,.0f} bytes/s a node"
        figures += f", {sum(each.refused for each in results)} refused"
    print(f"{nodes:5} {shape:9} {name:21}{figures}", flush=True)


if __name__ == "__main__":
    main()

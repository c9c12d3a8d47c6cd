"""What a trace of several consumers costs with one planner, with partitions, without prices, and at best."""

import json
from typing import Any

from protocol.record import Record
from worker.tools.simulate.consumer_optimum import LeastCost, least_cost
from worker.tools.simulate.consumer_replay import ConsumerCost, replay_planned
from worker.tools.simulate.consumer_trace import ConsumerTrace
from worker.tools.simulate.partitions import best_partition, replay_equal, replay_lru

_ALONE_SHARE = 0.25
"""Of the time for the optimum, what the bounds of all consumers, each with all memory to itself, may take."""


class ConsumersResult(Record):
    """Costs by arrangement."""

    trace: ConsumerTrace
    costs: dict[str, ConsumerCost]
    shares: dict[str, int]
    """The best fixed partition in hindsight, in bytes."""
    optimum: LeastCost
    alone: dict[str, LeastCost]
    """Of each consumer, if all memory were its own."""


def simulate_consumers(trace: ConsumerTrace, optimum_seconds: float) -> ConsumersResult:
    """Replay a trace in each arrangement, and find its optimum."""
    shares, hindsight = best_partition(trace)
    costs = {
        "planner": replay_planned(trace),
        "equal_partitions": replay_equal(trace, replay_planned),
        "hindsight_partition": hindsight,
        "shared_lru": replay_lru(trace),
        "own_lru": replay_equal(trace, replay_lru),
    }
    share = optimum_seconds * _ALONE_SHARE / max(1, len(trace.entries))
    alone = {each: least_cost(trace.of(each, trace.capacity_bytes), share) for each in trace.entries}
    return ConsumersResult(trace, costs, shares, least_cost(trace, optimum_seconds), alone)


def as_json(result: ConsumersResult) -> str:
    """Write a result on one line."""
    trace = result.trace
    planned, hindsight = result.costs["planner"], result.costs["hindsight_partition"]
    consumers = {
        name: {
            "entries": len(trace.entries[name]),
            "uses": sum(1 for consumer, _ in trace.uses if consumer == name),
            "rebuild_ms": {each: cost.rebuild_ms[name] for each, cost in result.costs.items()},
            "regret_ms": planned.rebuild_ms[name] - hindsight.rebuild_ms[name],
            "alone": _least(result.alone[name]),
            "hindsight_bytes": result.shares[name],
        }
        for name in trace.entries
    }
    arrangements = {
        name: {"rebuild_ms": cost.total_ms, "rebuilds": cost.rebuilds, "evictions": cost.evictions}
        for name, cost in result.costs.items()
    }
    row = {
        "capacity_bytes": trace.capacity_bytes,
        "uses": len(trace.uses),
        "arrangements": arrangements,
        "optimum": _least(result.optimum),
        "consumers": consumers,
    }
    return json.dumps(row)


def as_table(result: ConsumersResult) -> str:
    """Write a result for people."""
    best, names = result.optimum, list(result.trace.entries)
    rows = [f"{'arrangement':<22}{'rebuild s':>14}{'rebuilds':>10}{'evictions':>11}{'x best':>9}"]
    for name, cost in result.costs.items():
        ratio = f"{cost.total_ms / best.rebuild_ms:>9.3f}" if best.rebuild_ms else f"{'-':>9}"
        words = name.replace("_", " ")
        rows.append(f"{words:<22}{cost.total_ms / 1000:>14.3f}{cost.rebuilds:>10}{cost.evictions:>11}{ratio}")
    name, mark = ("optimum", "exact") if best.proven else ("lower bound", "not proven to be reachable")
    rows.append(f"{name:<22}{best.rebuild_ms / 1000:>14.3f}  ({mark}: {best.method})")
    planned, hindsight = result.costs["planner"], result.costs["hindsight_partition"]
    wide = max(16, *(len(each) + 2 for each in names)) if names else 16
    rows += [
        "",
        f"{'consumer':<{wide}}{'rebuild s':>14}{'at best alone':>15}{'regret s':>12}{'share GiB':>11}",
    ]
    for name in names:
        regret = planned.rebuild_ms[name] - hindsight.rebuild_ms[name]
        alone, share = result.alone[name].rebuild_ms / 1000, result.shares[name] / 2**30
        cost_s = planned.rebuild_ms[name] / 1000
        rows.append(f"{name:<{wide}}{cost_s:>14.3f}{alone:>15.3f}{regret / 1000:>12.3f}{share:>11.3f}")
    rows.append("regret: against its share in the partition that is best in hindsight")
    return "\n".join(rows)


def _least(least: LeastCost) -> dict[str, Any]:
    kind = "exact" if least.proven else "lower_bound"
    return {"rebuild_ms": least.rebuild_ms, "proven": least.proven, "kind": kind, "method": least.method}

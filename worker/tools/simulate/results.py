"""What traces cost under each policy, at best and as it happened: of each device, and of all together."""

import json
from collections.abc import Sequence
from typing import Any

from protocol.record import Record
from protocol.vocabulary import EvictionStrategy
from worker.tools.simulate.optimum import Optimum, offline_optimum
from worker.tools.simulate.replay import ReplayCost, replay_all
from worker.tools.simulate.trace import Recorded, Trace


class DeviceResult(Record):
    """One device's, or the sums over several."""

    costs: dict[EvictionStrategy, ReplayCost]
    optimum: Optimum
    recorded: Recorded | None
    """None where the trace has no loads in it, as one that was written by hand."""


def simulate(trace: Trace, strategies: Sequence[EvictionStrategy], optimum_seconds: float) -> DeviceResult:
    """Replay one device's trace under each strategy, and find its optimum."""
    return DeviceResult(
        replay_all(trace, strategies), offline_optimum(trace, optimum_seconds), trace.recorded
    )


def as_json(results: dict[str, DeviceResult]) -> str:
    """Write results on one line: the sums, and under ``devices`` what they are of."""
    rows = {device_id: _row(result) for device_id, result in results.items() if device_id}
    return json.dumps(_row(_total(list(results.values()))) | {"devices": rows})


def as_table(results: dict[str, DeviceResult]) -> str:
    """Write results for people: a table for each device, and one of the sums where there are several."""
    if len(results) == 1:
        return "\n".join(_table(next(iter(results.values()))))
    parts = [[device_id, *_table(result), ""] for device_id, result in results.items()]
    parts.append(["all devices", *_table(_total(list(results.values())))])
    return "\n".join(line for part in parts for line in part)


def _total(results: Sequence[DeviceResult]) -> DeviceResult:
    costs = {
        strategy: ReplayCost(**_sums([result.costs[strategy] for result in results]))
        for strategy in results[0].costs
    }
    known = [result.recorded for result in results if result.recorded is not None]
    best = [result.optimum for result in results]
    optimum = Optimum(
        sum(each.reload_ms for each in best),
        proven=all(each.proven for each in best),
        method="; ".join(dict.fromkeys(each.method for each in best)),
    )
    return DeviceResult(costs, optimum, Recorded(**_sums(known)) if known else None)


def _sums(rows: Sequence[ReplayCost | Recorded]) -> dict[str, int]:
    return {name: sum(getattr(row, name) for row in rows) for name in ("reload_ms", "loads", "evictions")}


def _row(result: DeviceResult) -> dict[str, Any]:
    best = result.optimum
    return {
        "policies": {strategy.value: vars(cost) for strategy, cost in result.costs.items()},
        "optimum": {
            "reload_ms": best.reload_ms,
            "proven": best.proven,
            "kind": "exact" if best.proven else "lower_bound",
            "method": best.method,
        },
        "as_recorded": None if result.recorded is None else vars(result.recorded),
    }


def _table(result: DeviceResult) -> list[str]:
    best = result.optimum
    rows = [f"{'policy':<16}{'reload s':>14}{'loads':>10}{'evictions':>11}{'x best':>9}"]
    named: list[tuple[str, ReplayCost | Recorded]] = [
        (strategy.value, cost) for strategy, cost in result.costs.items()
    ]
    if result.recorded is not None:
        named.append(("as it happened", result.recorded))
    for name, cost in named:
        ratio = f"{cost.reload_ms / best.reload_ms:>9.3f}" if best.reload_ms else f"{'-':>9}"
        rows.append(f"{name:<16}{cost.reload_ms / 1000:>14.3f}{cost.loads:>10}{cost.evictions:>11}{ratio}")
    name, mark = ("optimum", "exact") if best.proven else ("lower bound", "not proven to be reachable")
    rows.append(f"{name:<16}{best.reload_ms / 1000:>14.3f}  ({mark}: {best.method})")
    return rows

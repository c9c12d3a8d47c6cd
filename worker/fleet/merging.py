"""One answer out of several nodes': pure, a function an action. Answers come in the nodes' order and in the fleet's names."""

from collections.abc import Callable, Iterable
from typing import Any

from protocol.vocabulary import HealthState, PressureLevel
from worker.fleet.metrics_text import merged_metrics

Answers = dict[str, dict[str, Any]]
"""By node; the gateway's own first where it answered."""
Merge = Callable[[Answers], dict[str, Any]]

_LEVELS = (
    PressureLevel.UNKNOWN,
    PressureLevel.LOW,
    PressureLevel.MODERATE,
    PressureLevel.HIGH,
    PressureLevel.CRITICAL,
)
_HEALTH = (HealthState.OFF, HealthState.OK, HealthState.STARTING, HealthState.DEGRADED, HealthState.FAILED)


def worst_level(levels: Iterable[str]) -> str:
    """Return the highest level of pressure; ``unknown`` for none."""
    return max(map(PressureLevel, levels), key=_LEVELS.index, default=PressureLevel.UNKNOWN).value


def total(answers: Answers, key: str) -> int | None:
    """Add up; None where one of them does not know."""
    values = [each[key] for each in answers.values()]
    return None if None in values else sum(values)


def all_of(answers: Answers, key: str) -> list[Any]:
    """Return the items of a list, node by node; items where no node has the list are none at all."""
    return [item for each in answers.values() for item in each[key] or ()]


def _first(answers: Answers) -> dict[str, Any]:
    return next(iter(answers.values()))


def _listed(key: str) -> Merge:
    return lambda answers: {key: all_of(answers, key)}


def _status(answers: Answers) -> dict[str, Any]:
    return {
        "devices": all_of(answers, "devices"),
        "host": _first(answers)["host"],
        "pressure_level": worst_level(each["pressure_level"] for each in answers.values()),
        "age_ms": max(each["age_ms"] for each in answers.values()),
        "next": None,
    }


def _clear(answers: Answers) -> dict[str, Any]:
    ids = [each["allocation_ids"] for each in answers.values()]
    return {
        "cleared_bytes": total(answers, "cleared_bytes"),
        "returned_bytes": total(answers, "returned_bytes"),
        "allocations_freed": total(answers, "allocations_freed"),
        "models_unloaded": all_of(answers, "models_unloaded"),
        "kept": all_of(answers, "kept"),
        "allocation_ids": None if None in ids else all_of(answers, "allocation_ids"),
    }


def _defragment(answers: Answers) -> dict[str, Any]:
    several = len(answers) > 1
    steps = [
        {**step, "step": f"{node}: {step['step']}"}
        for node, each in answers.items()
        for step in each["steps"]
    ]
    return {
        "returned_bytes": total(answers, "returned_bytes"),
        "allocations_moved": total(answers, "allocations_moved"),
        "fragmentation_before": None if several else _first(answers)["fragmentation_before"],
        "fragmentation_after": None if several else _first(answers)["fragmentation_after"],
        "steps": steps,
        "displaced": all_of(answers, "displaced"),
    }


def _optimize(answers: Answers) -> dict[str, Any]:
    return {
        "claimed_bytes": total(answers, "claimed_bytes"),
        "returned_bytes": total(answers, "returned_bytes"),
        "steps": all_of(answers, "steps"),
        "pressure_before": worst_level(each["pressure_before"] for each in answers.values()),
        "pressure_after": worst_level(each["pressure_after"] for each in answers.values()),
        "released": all_of(answers, "released"),
        "models_kept": all_of(answers, "models_kept"),
        "consumers_kept": all_of(answers, "consumers_kept"),
    }


def _model_status(answers: Answers) -> dict[str, Any]:
    """Return a row of each model: of every node where it is, else of the first that knows it."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in all_of(answers, "models"):
        rows.setdefault(row["model_id"], []).append(row)
    found = []
    for same in rows.values():
        there = [
            row for row in same if row["device_id"] is not None and row["state"] not in {"unloaded", "failed"}
        ]
        found += there or [next((row for row in same if row["state"] != "failed"), same[0])]
    percentages = [each["pressure_percentage"] for each in answers.values()]
    known = [each for each in percentages if each is not None]
    return {
        "models": found,
        "pressure_level": worst_level(each["pressure_level"] for each in answers.values()),
        "pressure_percentage": max(known, default=None),
        "available_operations": list(dict.fromkeys(all_of(answers, "available_operations"))),
        "optimization_recommendations": _cheapest_first(all_of(answers, "optimization_recommendations")),
        "last_synchronized": min(each["last_synchronized"] for each in answers.values()),
    }


def _model_optimize(answers: Answers) -> dict[str, Any]:
    costs = [each["performance_impact"] for each in answers.values()]
    reloads = [each["reload_ms"] for each in costs]
    return {
        **_first(answers),
        "optimization_triggered": any(each["optimization_triggered"] for each in answers.values()),
        "memory_freed_bytes": total(answers, "memory_freed_bytes"),
        "memory_returned_bytes": total(answers, "memory_returned_bytes"),
        "models_unloaded": all_of(answers, "models_unloaded"),
        "models_kept": all_of(answers, "models_kept"),
        "performance_impact": {
            "reload_ms": None if None in reloads else sum(reloads),
            "models_affected": sum(each["models_affected"] for each in costs),
        },
        "optimization_time_ms": total(answers, "optimization_time_ms"),
        "pressure_before": worst_level(each["pressure_before"] for each in answers.values()),
        "pressure_after": worst_level(each["pressure_after"] for each in answers.values()),
        "goal_met": all(each["goal_met"] for each in answers.values()),
        "message": "; ".join(f"{node}: {each['message']}" for node, each in answers.items()),
    }


def _pressure(answers: Answers) -> dict[str, Any]:
    return {
        "devices": all_of(answers, "devices"),
        "pressure_level": worst_level(each["pressure_level"] for each in answers.values()),
    }


def _analytics(answers: Answers) -> dict[str, Any]:
    """Return all but ``actions``, which are the gateway's own: what the host asked for, and how long it took."""
    first = _first(answers)
    sections = {
        key: None if first[key] is None else all_of(answers, key)
        for key in ("timeline", "suspected_leaks", "evictions", "expirations")
    }
    return {
        "time_range_ms": first["time_range_ms"],
        "covered_ms": min(each["covered_ms"] for each in answers.values()),
        "actions": first["actions"],
        **sections,
    }


def _metrics(answers: Answers) -> dict[str, Any]:
    texts = {node: each["text"] for node, each in answers.items()}
    return {"content_type": _first(answers)["content_type"], "text": merged_metrics(texts)}


def _recommendations(answers: Answers) -> dict[str, Any]:
    return {"recommendations": _cheapest_first(all_of(answers, "recommendations"))}


def _cheapest_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    def price(row: dict[str, Any]) -> float:
        freed, cost = row["expected_freed_bytes"], row["cost_ms"]
        return (0.0 if cost is None else cost) / freed if freed else float("inf")

    return sorted(rows, key=price)


def _reload(answers: Answers) -> dict[str, Any]:
    """Return what is otherwise than before on any node; kept is what all of them kept."""
    changed = {key: list(dict.fromkeys(all_of(answers, key))) for key in ("added", "changed", "removed")}
    otherwise = {each for names in changed.values() for each in names}
    kept = [each for each in dict.fromkeys(all_of(answers, "kept")) if each not in otherwise]
    refused = {each["model_id"]: each for each in all_of(answers, "refused")}
    return {**changed, "kept": kept, "refused": list(refused.values())}


def _health(answers: Answers) -> dict[str, Any]:
    parts = [
        {**part, "name": f"{node}/{part['name']}"} for node, each in answers.items() for part in each["parts"]
    ]
    states = [HealthState(part["state"]) for part in parts]
    return {"state": max(states, key=_HEALTH.index, default=HealthState.OK).value, "parts": parts}


MERGES: dict[str, Merge] = {
    "memory.get_status": _status,
    "memory.get_usage": _listed("devices"),
    "memory.get_allocations": _listed("allocations"),
    "memory.clear": _clear,
    "memory.defragment": _defragment,
    "memory.optimize": _optimize,
    "memory.get_model_status": _model_status,
    "memory.model_optimize": _model_optimize,
    "memory.get_pressure": _pressure,
    "memory.get_analytics": _analytics,
    "memory.get_metrics": _metrics,
    "memory.get_optimization_recommendations": _recommendations,
    "memory.reload_models": _reload,
    "memory.get_consumers": _listed("consumers"),
    "worker.get_health": _health,
}
"""Of each action that every node answers."""

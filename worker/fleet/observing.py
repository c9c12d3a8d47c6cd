"""A node's view of itself, out of what its worker answers."""

from collections import Counter
from dataclasses import replace
from statistics import median
from typing import Any

from protocol.vocabulary import DeviceKind, DeviceState, ModelState
from worker.core.consumers import MIB, MODEL_PREFIX
from worker.fleet.views import DeviceView, ModelView, NodeView, PriceStep

UNKNOWN_MS_PER_MIB = 1.0
"""What rebuilding is taken to cost where it was never measured: reading at 1 GiB/s, as a disk of today does."""
_QUESTION = {"candidates": [{"name": "default device", "required_bytes": 0}]}
Ask = Any


def observe(ask: Ask, node_id: str, incarnation: str, *, draining: bool, down_ms: float = 0.0) -> NodeView:
    """Ask the worker for all that a view has, but for its revision. Raises what it refuses with."""
    status = ask("memory.get_status")
    models = ask("memory.get_model_status")["models"]
    consumers = ask("memory.get_consumers")["consumers"]
    default = ask("memory.plan", _QUESTION)["candidates"][0]["device_id"]
    fixed = {each["model_id"] for each in models if each["pinned"] or each["in_use"]}
    in_use: Counter[str] = Counter()
    for each in models:
        in_use[each["device_id"]] += each["in_use"]
    return NodeView(
        node_id,
        incarnation,
        0,
        tuple(
            replace(_device(each, consumers, fixed), in_use=in_use[each["device_id"]])
            for each in status["devices"]
        ),
        _with_read_speed([_model(each) for each in models]),
        default,
        draining,
        down_ms=down_ms,
    )


def _device(row: dict[str, Any], consumers: list[dict[str, Any]], fixed: set[str]) -> DeviceView:
    steps = [
        step
        for each in consumers
        if each["device_id"] == row["device_id"]
        if (step := _price(each, fixed)) is not None
    ]
    steps.sort(key=lambda step: step.cost_ms / step.bytes)
    return DeviceView(
        row["device_id"],
        DeviceKind(row["kind"]),
        row["total_bytes"],
        row["available_bytes"],
        tuple(steps),
        state=DeviceState(row["state"]),
    )


def _price(row: dict[str, Any], fixed: set[str]) -> PriceStep | None:
    consumer_id: str = row["consumer_id"]
    model_id = consumer_id.removeprefix(MODEL_PREFIX) if consumer_id.startswith(MODEL_PREFIX) else None
    spare = row["held_bytes"] - max(row["floor_bytes"], row["in_use_bytes"])
    if spare <= 0 or model_id in fixed:
        return None
    price = row["price_ms_per_mib"]
    if price is None:
        if model_id is None:
            return None  # it gives back nothing just now
        price = UNKNOWN_MS_PER_MIB
    return PriceStep(spare, price * spare / MIB, divisible=model_id is None, model_id=model_id)


def _model(row: dict[str, Any]) -> ModelView:
    state = ModelState(row["state"])
    size = next(
        (row[key] for key in ("measured_bytes", "estimated_bytes", "declared_bytes") if row[key] is not None),
        None,
    )
    there = state in {ModelState.LOADED, ModelState.LOADING, ModelState.OFFLOADED}
    return ModelView(
        row["model_id"],
        state,
        size,
        row["device_id"] if there else None,
        load_ms=row["load_ms"],
        in_use=row["in_use"],
        refused=row["state_reason"] if state is ModelState.FAILED else None,
    )


def _with_read_speed(models: list[ModelView]) -> tuple[ModelView, ...]:
    """Have models that were never loaded here expected at the pace of those that were: its disk, or its link, is the same."""
    paces = [each.size_bytes * 1000 / each.load_ms for each in models if each.size_bytes and each.load_ms]
    pace = median(paces) if paces else None
    return tuple(replace(each, read_bytes_per_s=pace) for each in models)

"""A node's view of itself, out of what its worker answers."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import psutil

from protocol.vocabulary import DeviceKind, DeviceState, FileLocation, ModelState
from worker.core.consumers import MIB, MODEL_PREFIX
from worker.fleet.pace import Pace, UnderWay
from worker.fleet.pricing import load_ms
from worker.fleet.views import DeviceView, ModelView, NodeView, PriceStep

UNKNOWN_MS_PER_MIB = 1.0
"""What rebuilding is taken to cost where it was never measured: reading at 1 GiB/s, as a disk of today does."""
_OF_A_FILE = 0.94
"""What of a link's speed is left to a file: 1,448 of the 1,538 bytes that a full frame of Ethernet takes."""
_QUESTION = {"candidates": [{"name": "default device", "required_bytes": 0}]}
Ask = Any


class Observer:
    """Looks at one start of a worker, and remembers since when what is being loaded is."""

    def __init__(
        self, node_id: str, incarnation: str, pace: Pace, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._node_id = node_id
        self.incarnation = incarnation
        self._pace = pace
        self._now = now
        self._link = _link_bytes_per_s()
        # All mutable state: of models that are being loaded, when that was seen first.
        self._loading: dict[str, float] = {}

    def observe(self, ask: Ask, *, draining: bool, down_ms: float = 0.0) -> NodeView:
        """Ask the worker for all that a view has, but for its revision. Raises what it refuses with."""
        status = ask("memory.get_status")["devices"]
        rows = ask("memory.get_model_status")["models"]
        consumers = ask("memory.get_consumers")["consumers"]
        default = ask("memory.plan", _QUESTION)["candidates"][0]["device_id"]
        fixed = {each["model_id"] for each in rows if each["pinned"] or each["in_use"]}
        under_way = self._pace.under_way()
        models = self._ready(self._with_read_speed([_model(each, under_way) for each in rows]))
        self._pace.loaded(models, [each["device_id"] for each in status])
        devices = (self._used(_device(each, consumers, fixed), models, under_way) for each in status)
        return NodeView(
            self._node_id, self.incarnation, 0, tuple(devices), models, default, draining, down_ms=down_ms
        )

    def _with_read_speed(self, models: list[ModelView]) -> list[ModelView]:
        """Have models that were never loaded here expected at the pace of those that were: its disk, or its link, is the same."""
        paces: dict[FileLocation, list[float]] = {}
        for each in models:
            if each.size_bytes and each.load_ms:
                paces.setdefault(each.file, []).append(each.size_bytes * 1000 / each.load_ms)
        found: dict[FileLocation, float | None] = {FileLocation.SHARED: self._link}
        found.update((location, median(measured)) for location, measured in paces.items())
        return [replace(each, read_bytes_per_s=found.get(each.file)) for each in models]

    def _ready(self, models: list[ModelView]) -> tuple[ModelView, ...]:
        """Have models that are being loaded say how long that still takes: what loading them takes, less what it took so far."""
        now, before = self._now(), self._loading
        loading = {each.model_id for each in models if each.state is ModelState.LOADING}
        self._loading = {each: before.get(each, now) for each in loading}
        return tuple(
            replace(
                each,
                ready_in_ms=max(
                    0.0, load_ms(each, each.size_bytes or 0) - 1000 * (now - self._loading[each.model_id])
                ),
            )
            if each.model_id in loading
            else each
            for each in models
        )

    def _used(self, device: DeviceView, models: tuple[ModelView, ...], under_way: UnderWay) -> DeviceView:
        """Have a device say what is loaded onto it, and worked with on it."""
        here = [each for each in models if each.device_id == device.device_id]
        placed: Counter[str] = Counter()
        for each in here:
            placed.update(under_way.get(each.model_id, {}))
        return replace(
            device,
            queue_ms=sum(each.ready_in_ms for each in here),
            in_use=sum(each.in_use for each in here),
            placed=tuple(sorted(placed.items())),
            **self._pace.of(device.device_id)._asdict(),
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


def _model(row: dict[str, Any], under_way: UnderWay) -> ModelView:
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
        file=FileLocation(row["file_location"] or FileLocation.LOCAL),
        in_use=max(row["in_use"], sum(under_way.get(row["model_id"], {}).values())),
        refused=row["state_reason"] if state is ModelState.FAILED else None,
        names=tuple(row["names"]),
    )


def _link_bytes_per_s() -> float | None:
    """Return what this machine's fastest link carries of a file at most, by the system; None where that does not say."""
    links = (each.speed for name, each in psutil.net_if_stats().items() if each.isup and name != "lo")
    megabits = max(links, default=0)
    return megabits * 1e6 / 8 * _OF_A_FILE if megabits > 0 else None

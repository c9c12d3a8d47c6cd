"""What the live view shows at one moment, whichever way it came. Pure: replies or a record in, rows out."""

from collections.abc import Iterable
from typing import Any

from protocol.record import Record
from worker.core.records import HOST
from worker.tools.report.happenings import Happening
from worker.tools.report.recording import ModelLane, Recording

_CURVE = 60
"""Points of a device's curve: its last minute."""


class DeviceRow(Record):
    """A device. ``percentage`` is of its budget, by all processes; ``own_bytes`` what this worker has, by its ledger."""

    device_id: str
    state: str
    level: str
    percentage: float | None
    budget_bytes: int | None
    own_bytes: int
    available_bytes: int | None
    bytes_per_second: float | None
    seconds_left: float | None
    curve: tuple[int, ...]
    demoted_bytes: int | None = None
    """What this worker has in the system's memory instead."""


class OwnerRow(Record):
    """An owner on a device; without a count it is another process."""

    device_id: str
    owner: str
    allocated_bytes: int
    allocation_count: int | None


class ModelRow(Record):
    """A model. ``expires_in_ms`` None: it stays until something needs its memory."""

    model_id: str
    state: str
    device_id: str
    size_bytes: int | None
    in_use: int
    pinned: bool
    expires_in_ms: int | None


class Snapshot(Record):
    """Everything shown."""

    source: str
    worker: str
    uptime_ms: int | None
    devices: tuple[DeviceRow, ...]
    owners: tuple[OwnerRow, ...]
    models: tuple[ModelRow, ...]
    happenings: tuple[Happening, ...]
    """The newest first; ``t_ms`` counts from the worker's start."""
    ended: bool = False
    process_bytes: int | None = None
    child_bytes: int | None = None
    """What the worker takes of the machine's memory, and what the processes do that it started."""


class Replies(Record):
    """What a worker answered, ``data`` by ``data``."""

    hello: dict[str, Any]
    ping: dict[str, Any]
    pressure: dict[str, Any]
    status: dict[str, Any]
    models: dict[str, Any]
    timeline: dict[str, Any]


def of_replies(source: str, replies: Replies, happenings: Iterable[Happening], *, ended: bool) -> Snapshot:
    """Put a snapshot together from what a worker answered."""
    pressures = {row["device_id"]: row for row in replies.pressure["devices"]}
    curves: dict[str, list[int]] = {}
    for point in replies.timeline["timeline"] or ():
        # A point stands for as many seconds as nothing changed; the most was in the first of them.
        held = point["span_ms"] // 1000 - 1
        values = curves.setdefault(point["device_id"], [])
        values += [point["peak_allocated_bytes"], *[point["allocated_bytes"]] * held]
    devices = tuple(
        _device(row, pressures.get(row["device_id"], {}), curves.get(row["device_id"], []))
        for row in replies.status["devices"]
    )
    owners = [
        OwnerRow(
            row["device_id"],
            group["key"] or "(no owner)",
            group["allocated_bytes"],
            group["allocation_count"],
        )
        for row in replies.status["devices"]
        for group in row["usage"] or ()
        if group["allocation_count"]
    ]
    owners += [
        OwnerRow(row["device_id"], f"{other['name'] or 'process'} ({other['pid']})", other["bytes"], None)
        for row in replies.status["devices"]
        for other in row.get("processes") or ()
        if other["bytes"] and not other["ours"]
    ]
    models = [
        ModelRow(
            row["model_id"], row["state"], row["device_id"] or "",
            row["measured_bytes"] or row["estimated_bytes"] or row["declared_bytes"],
            row["in_use"], row["pinned"], row["expires_in_ms"],
        )
        for row in replies.models["models"]
    ]  # fmt: skip
    return Snapshot(
        source=source,
        worker=f"{replies.hello['worker_version']}, process {replies.hello['pid']}",
        uptime_ms=replies.ping["uptime_ms"],
        devices=devices,
        owners=tuple(sorted(owners, key=lambda row: -row.allocated_bytes)),
        models=tuple(sorted(models, key=_model_order)),
        happenings=tuple(happenings),
        ended=ended,
        process_bytes=_of_cpu(replies.status["devices"], "process_used_bytes"),
        child_bytes=_of_cpu(replies.status["devices"], "child_process_bytes"),
    )


def of_recording(source: str, recording: Recording) -> Snapshot:
    """Put a snapshot together from what a record says by now."""
    rows: list[DeviceRow] = []
    owners: list[OwnerRow] = []
    for device_id, device in recording.devices.items():
        last, trend = device.last, device.last.get("trend") or {}
        curve = _by_the_second(device.samples, recording.last_ms)
        budget, headroom = last.get("budget_bytes"), last.get("available_bytes")
        percentage = None if not budget or headroom is None else max(0.0, 100 * (1 - headroom / budget))
        rows.append(
            DeviceRow(
                device_id, str(last.get("state")), str(last.get("pressure_level")), percentage, budget,
                _own_bytes(last), headroom, trend.get("bytes_per_second"), trend.get("seconds_to_exhaustion"), curve,
                last.get("process_demoted_bytes"),
            )
        )  # fmt: skip
        owners.extend(
            OwnerRow(
                device_id,
                f"({row['others']} others)" if "others" in row else row["owner"] or "(no owner)",
                row["allocated_bytes"],
                row["allocation_count"],
            )
            for row in last.get("owners", ())
            if row["allocation_count"]
        )
    lasts = [{"device_id": device_id} | device.last for device_id, device in recording.devices.items()]
    models = [_recorded_model(name, lane, recording.last_ms) for name, lane in recording.models.items()]
    told = [
        Happening(
            row.t_ms - recording.started_ms,
            row.kind,
            row.device_id,
            row.title,
            row.reason,
            row.severity,
            row.count,
        )
        for row in recording.happenings.told()[-200:]
    ]
    return Snapshot(
        source=source,
        worker=f"{recording.worker_version or '?'}, process {recording.pid or '?'}",
        uptime_ms=recording.last_ms - recording.started_ms,
        devices=tuple(rows),
        owners=tuple(sorted(owners, key=lambda row: -row.allocated_bytes)),
        models=tuple(sorted(models, key=_model_order)),
        happenings=tuple(reversed(told)),
        ended=recording.ended,
        process_bytes=_of_cpu(lasts, "process_used_bytes"),
        child_bytes=_of_cpu(lasts, "child_process_bytes"),
    )


def _of_cpu(rows: list[dict[str, Any]], figure: str) -> int | None:
    """Return a figure of the CPU's; None where a worker or a record of before has none."""
    return next((row.get(figure) for row in rows if row["device_id"] == HOST), None)


def _device(row: dict[str, Any], pressure: dict[str, Any], curve: list[int]) -> DeviceRow:
    trend = pressure.get("trend") or {}
    return DeviceRow(
        device_id=row["device_id"],
        state=row["state"],
        level=pressure.get("pressure_level", row["pressure_level"]),
        percentage=pressure.get("pressure_percentage"),
        budget_bytes=row["budget_bytes"],
        own_bytes=_own_bytes(row),
        available_bytes=row["available_bytes"],
        bytes_per_second=trend.get("bytes_per_second"),
        seconds_left=trend.get("seconds_to_exhaustion"),
        curve=tuple(curve[-_CURVE:]),
        demoted_bytes=row.get("process_demoted_bytes"),
    )


def _by_the_second(samples: list[dict[str, Any]], now_ms: int) -> tuple[int, ...]:
    """Return the most of each second of the last minute; a sample holds until the next."""
    values: list[int] = []
    since = now_ms - _CURVE * 1000
    ends = [sample["t_ms"] for sample in samples[1:]] + [now_ms + 1000]
    for sample, end_ms in zip(samples, ends, strict=True):
        seconds = (end_ms - max(since, sample["t_ms"])) / 1000
        if seconds > 0:
            held = max(0, round(seconds) - 1)
            values += [sample["peak_bytes"] or 0, *[sample["allocated_bytes"] or 0] * held]
    return tuple(values[-_CURVE:])


def _own_bytes(row: dict[str, Any]) -> int:
    return int(row.get("allocated_bytes") or 0) + int(row.get("model_bytes") or 0)


def _recorded_model(model_id: str, lane: ModelLane, now_ms: int) -> ModelRow:
    state, loaded = lane.state, bool(lane.spans) and lane.spans[-1].end_ms is None
    expires = state.get("expires_in_ms")
    if expires is not None:
        expires = max(0, expires - (now_ms - state["t_ms"]))
    return ModelRow(
        model_id=model_id,
        state=str(state.get("state", "loaded" if loaded else "unloaded")),
        device_id=str(state.get("device_id") or (lane.spans[-1].device_id if loaded else "")),
        size_bytes=state.get("bytes"),
        in_use=int(state.get("in_use", 0)),
        pinned=bool(state.get("pinned")),
        expires_in_ms=expires,
    )


def _model_order(row: ModelRow) -> tuple[bool, int, str]:
    return row.state == "unloaded", -(row.size_bytes or 0), row.model_id

"""The worker's figures as OpenMetrics 1.0 text. Pure: figures in, text out.

Only gauges, counters and histograms: the older Prometheus format knows no other types, so that its readers
(node_exporter's textfile collector) take the same text. What is unknown has no line.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from protocol.record import Record
from protocol.results import DeviceStatus, GetStatusResult, ModelStatus
from protocol.vocabulary import ModelState, PressureLevel
from worker.metrics.histogram import highest_value
from worker.metrics.totals import ActionTotals, DeviceTotals, Totals

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_BOUNDS_US = (
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 10_000_000, 60_000_000,
)  # fmt: skip
_OWNERS = 32
"""The largest of each device: names come from hosts, and each is a series that a collector keeps."""


class Figures(Record):
    """All that is told."""

    status: GetStatusResult
    models: tuple[ModelStatus, ...]
    totals: Totals


Sample = tuple[str, dict[str, str], float | None]
"""What follows the family's name, labels, value."""

_DEVICE_GAUGES = (
    ("total_bytes", "Size of the device's memory."),
    ("budget_bytes", "What this worker may take of it, as the system or the configuration says."),
    ("used_bytes", "In use on the device, by every process."),
    ("process_used_bytes", "In use by this worker, as the system or driver sees it."),
    ("child_process_bytes", "In use by the processes that this worker started, devices' among them."),
    ("demoted_bytes", "Device memory that is in the system's instead, of every process. Not in used_bytes."),
    ("process_demoted_bytes", "What the system moved there of this worker. Not in process_used_bytes."),
    ("allocated_bytes", "Live allocations, by the ledger."),
    ("external_bytes", "Held by the host and only recorded here."),
    ("cached_bytes", "Kept for reuse, not live."),
    ("unattributed_bytes", "In use by this worker and not explained by allocations, models and caches."),
    ("available_bytes", "What an allocation can still get."),
    ("peak_allocated_bytes", "The most that was ever allocated."),
    ("model_bytes", "Weights of models."),
)


def openmetrics(figures: Figures) -> str:
    """Write all families, each once, and the end mark."""
    lines: list[str] = []
    for family in (
        *_worker(figures.totals),
        *_devices(figures.status.devices),
        *_device_totals(figures.totals.devices),
        *_host(figures.status),
        *_models(figures.models),
        *_actions(figures.totals.actions),
    ):
        lines.extend(family)
    return "\n".join([*lines, "# EOF"]) + "\n"


def _family(kind: str, name: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    """Write a family, or nothing where no sample has a value."""
    known = [sample for sample in samples if sample[2] is not None]
    if not known:
        return
    name = f"memory_worker_{name}"
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    unit = next((unit for unit in ("bytes", "seconds", "ratio") if name.endswith(f"_{unit}")), None)
    if unit is not None:
        yield f"# UNIT {name} {unit}"
    for suffix, labels, value in known:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        yield f"{name}{suffix}{{{inside}}} {value}" if inside else f"{name}{suffix} {value}"


def _worker(totals: Totals) -> Iterator[Iterator[str]]:
    yield _family("gauge", "info", "Version of the worker.", [("", {"version": totals.version}, 1)])
    started: list[Sample] = [("", {}, round(totals.started_seconds, 3))]
    yield _family("gauge", "start_time_seconds", "When it started, since the epoch.", started)
    yield _family("gauge", "uptime_seconds", "How long it runs.", [("", {}, round(totals.uptime_seconds, 3))])
    garbage = totals.garbage
    if garbage is None:
        return
    counts: list[Sample] = [
        ("_total", {"generation": f"{generation}"}, count)
        for generation, count in enumerate(garbage.collections)
    ]
    yield _family(
        "counter", "gc_collections", "Runs of Python's garbage collector in the worker's process.", counts
    )
    paused: list[Sample] = [("_total", {}, round(garbage.paused_seconds, 6))]
    yield _family(
        "counter",
        "gc_pause_seconds",
        "How long they took, while all else of the worker's stood still.",
        paused,
    )
    longest: list[Sample] = [("", {}, round(garbage.longest_pause_seconds, 6))]
    yield _family("gauge", "gc_longest_pause_seconds", "The longest of them.", longest)


def _devices(devices: tuple[DeviceStatus, ...]) -> Iterator[Iterator[str]]:
    for field, text in _DEVICE_GAUGES:
        rows = [("", _on(each.device_id), getattr(each, field)) for each in devices]
        yield _family("gauge", f"device_{field}", text, rows)
    counts: list[Sample] = [("", _on(each.device_id), each.allocation_count) for each in devices]
    yield _family("gauge", "device_allocations", "Live allocations.", counts)
    shares: list[Sample] = [
        (
            "",
            _on(each.device_id),
            None if each.utilization_percentage is None else round(each.utilization_percentage / 100, 6),
        )
        for each in devices
    ]
    yield _family("gauge", "device_utilization_ratio", "Used share of the whole device.", shares)
    levels: list[Sample] = [
        ("", {**_on(each.device_id), "level": level}, int(each.pressure_level is level))
        for each in devices
        for level in PressureLevel
    ]
    yield _family("gauge", "device_pressure_level", "1 for the level that holds, 0 for the others.", levels)
    there: list[Sample] = [("", _on(each.device_id), int(each.state == "available")) for each in devices]
    yield _family("gauge", "device_up", "Whether the device can be asked for memory.", there)


def _device_totals(devices: tuple[DeviceTotals, ...]) -> Iterator[Iterator[str]]:
    def counter(name: str, text: str, field: str) -> Iterator[str]:
        return _family(
            "counter", name, text, [("_total", _on(each.device_id), getattr(each, field)) for each in devices]
        )

    yield counter("device_allocations_made", "Allocations ever made.", "made_count")
    yield counter("device_made_bytes", "Bytes ever allocated.", "made_bytes")
    yield counter("device_evictions", "Models dropped.", "evictions")
    yield counter("device_expirations", "Allocations whose lease ran out.", "expirations")
    owners: list[Sample] = [
        ("", {**_on(each.device_id), "owner": flow.owner or ""}, flow.allocated_bytes)
        for each in devices
        for flow in each.owners[:_OWNERS]
    ]
    text = f"Live allocations of the {_OWNERS} owners of a device that have most; empty for none named."
    yield _family("gauge", "owner_allocated_bytes", text, owners)


def _host(status: GetStatusResult) -> Iterator[Iterator[str]]:
    host = status.host
    rows: list[tuple[str, str, Any]] = [
        ("host_total_bytes", "The machine's memory.", host.total_bytes),
        ("host_available_bytes", "What the machine has left.", host.available_bytes),
        ("process_resident_bytes", "The worker's own resident memory.", host.process_rss_bytes),
    ]
    for name, text, value in rows:
        yield _family("gauge", name, text, [("", {}, value)])


def _models(models: tuple[ModelStatus, ...]) -> Iterator[Iterator[str]]:
    def named(model: ModelStatus) -> dict[str, str]:
        return {"model_id": model.model_id}

    states: list[Sample] = [
        ("", {**named(each), "state": state}, int(each.state is state))
        for each in models
        for state in ModelState
    ]
    yield _family("gauge", "model_state", "1 for the state that a model is in, 0 for the others.", states)
    sizes: list[Sample] = [
        ("", {**named(each), "device_id": each.device_id or ""}, each.measured_bytes)
        for each in models
        if each.state is ModelState.LOADED
    ]
    yield _family("gauge", "model_loaded_bytes", "Weights of a loaded model, as measured.", sizes)
    leases: list[Sample] = [("", named(each), each.in_use) for each in models]
    yield _family("gauge", "model_in_use", "Leases on a model.", leases)
    loading: list[Sample] = [
        ("", named(each), None if each.load_ms is None else each.load_ms / 1000) for each in models
    ]
    yield _family("gauge", "model_load_seconds", "How long its last load took.", loading)
    loads: list[Sample] = [("_total", named(each), each.load_count) for each in models]
    yield _family("counter", "model_loads", "How often it was loaded.", loads)
    uses: list[Sample] = [("_total", named(each), each.use_count) for each in models]
    yield _family("counter", "model_uses", "How often it was used.", uses)


def _actions(actions: tuple[ActionTotals, ...]) -> Iterator[Iterator[str]]:
    samples: list[Sample] = []
    for each in actions:
        samples.extend(_histogram(each))
    text = "From a request's line to its reply; operation: names are in-process code."
    yield _family("histogram", "action_duration_seconds", text, samples)
    errors: list[Sample] = [("_total", {"action": each.action}, each.errors) for each in actions]
    yield _family("counter", "action_errors", "Requests that failed.", errors)


def _histogram(action: ActionTotals) -> Iterator[Sample]:
    """Write the counts below each bound. A value counts by its bucket's highest: at most 1/32 above it."""
    ends = sorted((highest_value(index), count) for index, count in action.counts.items())
    seen = position = 0
    for bound in _BOUNDS_US:
        while position < len(ends) and ends[position][0] <= bound:
            seen += ends[position][1]
            position += 1
        yield "_bucket", {"action": action.action, "le": repr(bound / 1e6)}, seen
    total = sum(action.counts.values())
    yield "_bucket", {"action": action.action, "le": "+Inf"}, total
    yield "_sum", {"action": action.action}, action.total_us / 1e6
    yield "_count", {"action": action.action}, total


def _on(device_id: str) -> dict[str, str]:
    return {"device_id": device_id}


def _escaped(text: str) -> str:
    """Write a label's value. What is no text, such as half a surrogate pair, becomes a question mark."""
    plain = text.encode("utf-8", "replace").decode()
    return plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

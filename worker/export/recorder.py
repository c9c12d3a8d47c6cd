"""What goes into the record beside the decisions: samples, model states, events, refusals, action statistics.

A sample says what there is, why its level is what it is, and where it is heading. It is written once a
second at most, where something changed, and every half minute else; what was only there in between shows as
its peak. Everything here is a question: the worker's own work waits for none of it. docs/monitoring.md says
what the lines hold.
"""

from collections.abc import Callable
from typing import Any

from protocol.record import Record
from protocol.results import DeviceStatus, ModelStatus, PressureSignal, PressureTrend
from protocol.vocabulary import AnalyticsSection, EventName, PressureLevel
from worker.core.clock import NS_PER_MS, NS_PER_S
from worker.core.records import OwnerFlow
from worker.interface.interface_memory import MemoryInterface
from worker.watch.trends import TrendWatch
from worker.wiring import Core

_STATISTICS_NS = 60 * NS_PER_S
_QUIET_NS = 30 * NS_PER_S
_NOTABLE_SHARE = 100
"""Figures of the whole machine move all the time: by a hundredth of its memory they have changed."""
_QUIET_LEVELS = {PressureLevel.LOW, PressureLevel.UNKNOWN}
"""A signal at such a level explains nothing."""
_OWNERS = 12
"""The largest have their own rows in a sample, the others one together."""

Note = Callable[[dict[str, Any]], None]


class _Last(Record):
    """The last sample of a device."""

    at_ns: int
    exact: tuple[Any, ...]
    rough: tuple[int | None, ...]
    trend: PressureTrend | None = None


class Recorder:
    """Takes notes. ``tick`` is for one thread, about once a second; ``event`` for any."""

    def __init__(self, note: Note, core: Core, memory: MemoryInterface, trends: TrendWatch) -> None:
        self._note = note
        self._memory = memory
        self._manager = core.manager
        self._trends = trends
        self._history = core.history
        self._clock = core.clock
        # All mutable state: what was last told.
        self._samples: dict[str, _Last] = {}
        self._models: tuple[tuple[Any, ...], ...] = ()
        self._refusals = 0
        self._done: dict[str, int] = {}
        self._statistics_ns = core.clock.now_ns()

    def event(self, event: EventName, data: Any) -> None:
        """Note an event, as a subscriber sees it."""
        self._note({"event": event, "t_ms": self._now_ms(), "data": data})

    def tick(self) -> None:
        """Note what changed."""
        devices = self._memory.devices.ids(None)
        for status in self._memory.questions.status(devices).devices:
            self._sample(status)
        self._model_states()
        self._refused()
        self._interventions()
        if self._clock.now_ns() - self._statistics_ns >= _STATISTICS_NS:
            self._statistics(devices)

    def finish(self) -> None:
        """Note how it stands at the end, changed or not."""
        self._samples.clear()
        self.tick()
        self._statistics(self._memory.devices.ids(None))
        self._note({"end": True, "t_ms": self._now_ms()})

    def _sample(self, status: DeviceStatus) -> None:
        now_ns, device_id = self._clock.now_ns(), status.device_id
        limits = self._manager.devices.limits(device_id)
        last = self._samples.get(device_id)
        since_ns = now_ns - NS_PER_S if last is None else last.at_ns
        peak = max(self._history.peak_bytes(device_id, since_ns) or 0, status.allocated_bytes)
        flows = self._manager.usage.flows(device_id)
        signals = self._signals(device_id)
        exact = (
            status.state, status.allocated_bytes, status.model_bytes, status.external_bytes, status.pressure_level,
            peak, limits, sum(flow.made_count for flow in flows), tuple(each.name for each in signals),
        )  # fmt: skip
        rough = (
            status.used_bytes, status.process_used_bytes, status.child_process_bytes, status.available_bytes,
            status.process_demoted_bytes,
            status.budget_bytes,
        )  # fmt: skip
        present = _Last(now_ns, exact, rough)
        differs = last is None or _differs(last, present, status.total_bytes)
        trend = self._trend(status, last, differs=differs)
        if not differs and (last is None or not _turned(last.trend, trend, status.total_bytes)):
            return
        self._samples[device_id] = _Last(now_ns, exact, rough, trend)
        self._note(
            {
                "sample": device_id,
                "t_ms": now_ns // NS_PER_MS,
                "state": status.state,
                "pressure_level": status.pressure_level,
                "total_bytes": status.total_bytes,
                "budget_bytes": status.budget_bytes,
                "limit_bytes": limits.limit_bytes,
                "reserve_bytes": limits.reserve_bytes,
                "used_bytes": status.used_bytes,
                "process_used_bytes": status.process_used_bytes,
                "child_process_bytes": status.child_process_bytes,
                "demoted_bytes": status.demoted_bytes,
                "process_demoted_bytes": status.process_demoted_bytes,
                "available_bytes": status.available_bytes,
                "allocated_bytes": status.allocated_bytes,
                "peak_bytes": peak,
                "external_bytes": status.external_bytes,
                "model_bytes": status.model_bytes,
                "cached_bytes": status.cached_bytes,
                "signals": [
                    {"name": each.name, "value": each.value, "level": each.level} for each in signals
                ],
                "trend": trend,
                "owners": owner_rows(flows),
            }
        )

    def _signals(self, device_id: str) -> tuple[PressureSignal, ...]:
        """Return what makes the level what it is; nothing where all is calm."""
        signals = self._manager.pressure.signals(device_id)
        return tuple(signal for signal in signals if signal.level not in _QUIET_LEVELS)

    def _trend(self, status: DeviceStatus, last: _Last | None, *, differs: bool) -> PressureTrend | None:
        """Return where a device is heading; a question that takes ms, so of one at rest only now and then."""
        trends = self._trends
        if differs or (last is not None and _turned(last.trend, None, status.total_bytes)):
            return trends.trend(status.device_id)
        return trends.alarming_trend(status.device_id)

    def _model_states(self) -> None:
        models = self._memory.built_models
        if models is None:
            return
        rows = models.rows()
        states = tuple(_state(row) for row in rows)
        if states == self._models:
            return
        self._models = states
        keys = ("model_id", "state", "device_id", "bytes", "pinned", "in_use", "use_count", "keep_alive_ms")
        told = [dict(zip(keys, state, strict=True)) for state in states]
        for each, row in zip(told, rows, strict=True):
            each["expires_in_ms"] = row.expires_in_ms
        self._note({"model_states": told, "t_ms": self._now_ms()})

    def _refused(self) -> None:
        refusals, self._refusals = self._history.refusals(self._refusals)
        for each in refusals:
            self._note(
                {
                    "refused": each.action,
                    "t_ms": each.at_ns // NS_PER_MS,
                    "device_id": each.device_id,
                    "code": each.code,
                    "reason": each.message,
                }
            )

    def _interventions(self) -> None:
        for action, count in self._history.interventions().items():
            times = count - self._done.get(action, 0)
            if times:
                self._done[action] = count
                self._note({"done": action, "t_ms": self._now_ms(), "count": times})

    def _statistics(self, device_ids: tuple[str, ...]) -> None:
        self._statistics_ns = self._clock.now_ns()
        since_start_ms = 7 * 24 * 3600 * 1000
        rows = self._memory.questions.analytics(
            device_ids, since_start_ms, frozenset({AnalyticsSection.ACTIONS})
        ).actions
        self._note({"actions": rows, "t_ms": self._now_ms()})

    def _now_ms(self) -> int:
        return self._clock.now_ns() // NS_PER_MS


def owner_rows(flows: tuple[OwnerFlow, ...]) -> list[dict[str, Any]]:
    """Return a sample's rows by owner: the largest, then all others as one without a name of its own."""
    rows = [
        {
            "owner": flow.owner,
            "allocated_bytes": flow.allocated_bytes,
            "allocation_count": flow.allocation_count,
            "made_bytes": flow.made_bytes,
            "made_count": flow.made_count,
        }
        for flow in flows[:_OWNERS]
    ]
    rest = flows[_OWNERS:]
    if rest:
        rows.append(
            {
                "others": len(rest),
                "allocated_bytes": sum(flow.allocated_bytes for flow in rest),
                "allocation_count": sum(flow.allocation_count for flow in rest),
                "made_bytes": sum(flow.made_bytes for flow in rest),
                "made_count": sum(flow.made_count for flow in rest),
            }
        )
    return rows


def _state(row: ModelStatus) -> tuple[Any, ...]:
    size = row.measured_bytes or row.estimated_bytes or row.declared_bytes
    return (
        row.model_id, row.state, row.device_id, size, row.pinned, row.in_use, row.use_count, row.keep_alive_ms,
    )  # fmt: skip


def _differs(last: _Last, present: _Last, total_bytes: int | None) -> bool:
    """Tell whether a sample is worth a line: a figure of ours changed, another moved far, or it is time."""
    if last.exact != present.exact or present.at_ns - last.at_ns >= _QUIET_NS:
        return True
    notable = (total_bytes or 0) // _NOTABLE_SHARE
    return any(
        (before is None) != (now is None) or abs((before or 0) - (now or 0)) > notable
        for before, now in zip(last.rough, present.rough, strict=True)
    )


def _turned(last: PressureTrend | None, present: PressureTrend | None, total_bytes: int | None) -> bool:
    """Tell whether a trend is worth a line: it has an end in sight, or no longer, or leads elsewhere."""
    before, now = last or _STEADY, present or _STEADY
    if now.seconds_to_exhaustion is not None or before.seconds_to_exhaustion is not None:
        return before != now
    led_to = abs(now.bytes_per_second - before.bytes_per_second) * _QUIET_NS / NS_PER_S
    return led_to > (total_bytes or 0) // _NOTABLE_SHARE


_STEADY = PressureTrend(0.0, None, None, None)

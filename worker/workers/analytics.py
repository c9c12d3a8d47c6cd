"""What the figures say: status, pressure, recommendations, and the record of late. Changes nothing."""

from dataclasses import replace

from protocol.results import (
    DevicePressure,
    DeviceStatus,
    DeviceUsage,
    GetAnalyticsResult,
    TimelinePoint,
)
from protocol.vocabulary import AnalyticsSection, GroupBy
from worker import __version__
from worker.core.actions import Recommended
from worker.core.clock import NS_PER_S, Clock
from worker.core.records import age_order
from worker.manager.devices import utilization_percentage
from worker.manager.manager_memory import MemoryManager
from worker.metrics.history import History
from worker.metrics.totals import DeviceTotals, Totals
from worker.policy.recommendations import cheapest_first, recommend
from worker.watch.leaks import LeakWatch
from worker.watch.trends import TrendWatch


class AnalyticsWorker:
    """Answers from the manager's numbers and the history."""

    def __init__(self, manager: MemoryManager, history: History, clock: Clock) -> None:
        self._manager = manager
        self._history = history
        self._clock = clock
        self.leaks = LeakWatch(manager, clock)
        self.trends = TrendWatch(manager, clock)

    def status(self, device_id: str, *, allocations: bool, usage: bool, fragmentation: bool) -> DeviceStatus:
        """Return where a device's memory is."""
        status = self._manager.status(device_id)
        if not (allocations or usage or fragmentation):
            return status
        readings = self._manager.readings(device_id)
        rows = sorted(self._manager.allocations(device_id), key=age_order) if allocations else ()
        return replace(
            status,
            allocations=tuple(map(self._manager.row, rows)) if allocations else None,
            usage=self._manager.usage(device_id, GroupBy.OWNER)[2] if usage else None,
            fragmentation=readings.fragmentation if fragmentation and readings is not None else None,
        )

    def usage(self, device_id: str, group_by: GroupBy) -> DeviceUsage:
        """Return a device's allocated bytes in groups."""
        allocated, peak, groups = self._manager.usage(device_id, group_by)
        return DeviceUsage(device_id, allocated, peak, groups)

    def pressure(self, device_id: str) -> DevicePressure:
        """Return how close a device is to running out. What would help is for who answers to add."""
        room = self._manager.headroom(device_id)
        readings = self._manager.readings(device_id)
        return DevicePressure(
            device_id=device_id,
            pressure_level=self._manager.level(device_id),
            pressure_percentage=room.pressure_percentage,
            available_memory_bytes=room.available_bytes,
            total_memory_bytes=readings.total_bytes if readings is not None else None,
            utilization_percentage=utilization_percentage(readings) if readings is not None else None,
            thresholds=self._manager.limits(device_id).thresholds,
            signals=self._manager.signals(device_id),
            trend=self.trends.trend(device_id),
            recommended_actions=(),
        )

    def recommendations(self, device_ids: tuple[str, ...]) -> tuple[Recommended, ...]:
        """Return the actions worth taking, cheapest per byte first."""
        found: list[Recommended] = []
        for device_id in device_ids:
            readings = self._manager.readings(device_id)
            if readings is not None:
                found.extend(recommend(device_id, readings))
        return cheapest_first(tuple(found))

    def observe(self, device_id: str) -> None:
        """Enter a device's present figures in the timeline."""
        self.trends.note(device_id)
        status = self._manager.status(device_id)
        # Between a change and the next readings the ledger is ahead of what the system said.
        process = None if self._manager.is_stale(device_id) else status.process_used_bytes
        self._history.record_memory(
            TimelinePoint(
                device_id=device_id,
                ms_ago=0,
                span_ms=0,
                allocated_bytes=status.allocated_bytes,
                peak_allocated_bytes=status.allocated_bytes,
                process_used_bytes=process,
                available_bytes=status.available_bytes,
                pressure_level=status.pressure_level,
            )
        )

    def analytics(
        self, device_ids: tuple[str, ...], range_ms: int, include: frozenset[AnalyticsSection]
    ) -> GetAnalyticsResult:
        """Return what has happened within the range, in the sections asked for."""
        history = self._history
        return GetAnalyticsResult(
            time_range_ms=range_ms,
            covered_ms=history.covered_ms(range_ms),
            actions=history.actions(range_ms) if AnalyticsSection.ACTIONS in include else None,
            timeline=(
                history.timeline(device_ids, range_ms) if AnalyticsSection.TIMELINE in include else None
            ),
            suspected_leaks=self.leaks.suspects(device_ids) if AnalyticsSection.LEAKS in include else None,
            evictions=(
                history.evictions(device_ids, range_ms) if AnalyticsSection.EVICTIONS in include else None
            ),
            expirations=(
                history.expirations(device_ids, range_ms) if AnalyticsSection.EXPIRATIONS in include else None
            ),
        )

    def totals(self, device_ids: tuple[str, ...]) -> Totals:
        """Return what happened since the start."""
        uptime_ns = self._history.uptime_ns()
        return Totals(
            version=__version__,
            uptime_seconds=uptime_ns / NS_PER_S,
            started_seconds=self._clock.utc().timestamp() - uptime_ns / NS_PER_S,
            devices=tuple(map(self._device_totals, device_ids)),
            actions=self._history.totals(),
        )

    def _device_totals(self, device_id: str) -> DeviceTotals:
        made_count, made_bytes = self._manager.made(device_id)
        return DeviceTotals(
            device_id,
            self._manager.flows(device_id),
            made_count,
            made_bytes,
            self._history.evicted(device_id),
            self._history.expired(device_id),
        )

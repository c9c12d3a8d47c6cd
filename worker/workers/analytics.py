"""What the figures say: status, pressure, recommendations, and the record of late. Changes nothing."""

from collections.abc import Callable
from dataclasses import replace

from protocol.results import (
    DeviceFigures,
    DevicePressure,
    DeviceStatus,
    DeviceUsage,
    GetAnalyticsResult,
    Holder,
)
from protocol.vocabulary import AnalyticsSection, GroupBy, LeakKind
from worker import __version__
from worker.core.actions import Recommended
from worker.core.clock import NS_PER_S
from worker.core.records import age_order
from worker.manager.devices import NO_READINGS, utilization_percentage
from worker.metrics.totals import DeviceTotals, GarbageTotals, Totals
from worker.policy.holders import HeldModel, Suspects, holders, unattributed_bytes
from worker.policy.recommendations import cheapest_first, recommend
from worker.watch.leaks import LeakWatch
from worker.watch.trends import TrendWatch
from worker.wiring import Core
from worker.workers.consumers import ConsumerWorker


class AnalyticsWorker:
    """Answers from the manager's numbers and the history."""

    def __init__(
        self, core: Core, trends: TrendWatch, leaks: LeakWatch, consumers: ConsumerWorker,
        garbage: Callable[[], GarbageTotals | None],
    ) -> None:  # fmt: skip
        self._manager = core.manager
        self._history = core.history
        self._clock = core.clock
        # Noted once: a clock that is set meanwhile would look like another start to a collector.
        self._started_seconds = core.clock.utc().timestamp() - core.history.uptime_ns() / NS_PER_S
        self._trends = trends
        self._leaks = leaks
        self._consumers = consumers
        self._garbage = garbage

    def status(self, device_id: str, *, allocations: bool, usage: bool, fragmentation: bool) -> DeviceStatus:
        """Return where a device's memory is."""
        status = self._manager.pressure.status(device_id)
        if not (allocations or usage or fragmentation):
            return status
        readings = self._manager.samples.latest(device_id)
        rows = sorted(self._manager.allocations.all(device_id), key=age_order) if allocations else ()
        return replace(
            status,
            allocations=tuple(map(self._manager.allocations.row, rows)) if allocations else None,
            usage=self._manager.usage.groups(device_id, GroupBy.OWNER)[2] if usage else None,
            fragmentation=readings.fragmentation if fragmentation and readings is not None else None,
        )

    def figures(self, device_id: str) -> DeviceFigures:
        """Return a device's memory in figures, and where it is heading."""
        with self._manager.lock:  # all of one moment
            row = self._manager.pressure.status(device_id)
            percentage = self._manager.pressure.headroom(device_id).pressure_percentage
        return DeviceFigures(
            device_id=device_id,
            state=row.state,
            pressure_level=row.pressure_level,
            pressure_percentage=percentage,
            budget_bytes=row.budget_bytes,
            available_bytes=row.available_bytes,
            used_bytes=row.used_bytes,
            process_used_bytes=row.process_used_bytes,
            allocated_bytes=row.allocated_bytes,
            allocation_count=row.allocation_count,
            model_bytes=row.model_bytes,
            cached_bytes=row.cached_bytes,
            trend=self._trends.trend(device_id),
        )

    def usage(self, device_id: str, group_by: GroupBy) -> DeviceUsage:
        """Return a device's allocated bytes in groups, and what else takes its memory."""
        manager = self._manager
        with manager.lock:  # all of one moment, so that it adds up
            readings = manager.samples.latest(device_id) or NO_READINGS
            allocated, peak, groups = manager.usage.groups(device_id, group_by)
            status = manager.pressure.status(device_id)
            resident = readings.resident_bytes + manager.usage.object_bytes(device_id)
        in_groups = sum(group.allocated_bytes for group in groups)
        return DeviceUsage(
            device_id=device_id,
            allocated_bytes=allocated,
            peak_allocated_bytes=peak,
            external_bytes=status.external_bytes,
            external_model_bytes=allocated + status.external_bytes - in_groups,
            model_bytes=status.model_bytes,
            resident_bytes=resident,
            cached_bytes=readings.cached_bytes,
            unattributed_bytes=status.unattributed_bytes,
            process_used_bytes=readings.process_used_bytes,
            groups=groups,
        )

    def _held_by(self, device_id: str, models: tuple[HeldModel, ...]) -> tuple[Holder, ...]:
        """Return what holds a device's memory, and who alone can free it."""
        leaks = self._leaks.suspects((device_id,))
        suspects = Suspects(
            frozenset((each.owner, each.purpose) for each in leaks if each.kind is LeakKind.ALLOCATIONS),
            any(each.kind is LeakKind.PROCESS for each in leaks),
        )
        readings = self._manager.samples.latest(device_id) or NO_READINGS
        allocations = self._manager.allocations.all(device_id)
        unattributed = unattributed_bytes(readings, self._manager.usage.object_bytes(device_id))
        consumers = self._consumers.held_here(device_id)
        return holders(allocations, models, consumers, readings, unattributed, suspects, self._clock.now_ns())

    def pressure(self, device_id: str, models: tuple[HeldModel, ...]) -> DevicePressure:
        """Return how close a device is to running out. What would help is for who answers to add."""
        headroom = self._manager.pressure.headroom(device_id)
        readings = self._manager.samples.latest(device_id)
        return DevicePressure(
            device_id=device_id,
            pressure_level=self._manager.pressure.level(device_id),
            pressure_percentage=headroom.pressure_percentage,
            available_memory_bytes=headroom.available_bytes,
            total_memory_bytes=readings.total_bytes if readings is not None else None,
            utilization_percentage=utilization_percentage(readings) if readings is not None else None,
            thresholds=self._manager.devices.limits(device_id).thresholds,
            signals=self._manager.pressure.signals(device_id),
            trend=self._trends.trend(device_id),
            recommended_actions=(),
            held_by=self._held_by(device_id, models),
        )

    def recommendations(self, device_ids: tuple[str, ...]) -> tuple[Recommended, ...]:
        """Return the actions worth taking, cheapest per byte first."""
        found: list[Recommended] = []
        for device_id in device_ids:
            readings = self._manager.samples.latest(device_id)
            if readings is not None:
                found.extend(recommend(device_id, readings))
        return cheapest_first(tuple(found))

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
            suspected_leaks=self._leaks.suspects(device_ids) if AnalyticsSection.LEAKS in include else None,
            evictions=(
                history.evictions(device_ids, range_ms) if AnalyticsSection.EVICTIONS in include else None
            ),
            expirations=(
                history.expirations(device_ids, range_ms) if AnalyticsSection.EXPIRATIONS in include else None
            ),
        )

    def totals(self, device_ids: tuple[str, ...]) -> Totals:
        """Return what happened since the start."""
        return Totals(
            version=__version__,
            uptime_seconds=self._history.uptime_ns() / NS_PER_S,
            started_seconds=self._started_seconds,
            devices=tuple(map(self._device_totals, device_ids)),
            actions=self._history.totals(),
            garbage=self._garbage(),
        )

    def _device_totals(self, device_id: str) -> DeviceTotals:
        made_count, made_bytes = self._manager.usage.made(device_id)
        return DeviceTotals(
            device_id,
            self._manager.usage.flows(device_id),
            made_count,
            made_bytes,
            self._history.evicted(device_id),
            self._history.expired(device_id),
        )

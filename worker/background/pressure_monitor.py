"""Sampling devices unasked: soon where it is tight or moving, rarely where it is calm; and what is told then.

The ledger's own changes are seen at once, by the device monitor; sampling is for what others do meanwhile.
"""

from collections.abc import Callable

from protocol.vocabulary import PressureLevel
from worker.core.clock import NS_PER_MS, NS_PER_S
from worker.core.events import ExhaustionForecast, LeakSuspected
from worker.core.log import log
from worker.interface.interface_memory import MemoryInterface
from worker.policy.forecast_alarm import ForecastAlarm, consider
from worker.policy.polling import CALM_NS, SOONEST_NS, TIDY_NS, next_sample_ns
from worker.watch.leaks import LeakWatch
from worker.watch.pace import Pace
from worker.watch.trends import TrendWatch
from worker.wiring import Core

LEAKS_EVERY_NS = 10 * NS_PER_S
_TOLD_LEAKS_MAX = 1024
_LEAKS_AT_ONCE = 4
"""The largest come first; the others' turn is ten seconds later."""


class PressureMonitor:
    """Samples, and tells of forecasts and suspected leaks. Levels and budgets are told by the device monitor."""

    def __init__(
        self,
        core: Core,
        memory: MemoryInterface,
        trends: TrendWatch,
        leaks: LeakWatch,
        pace: Pace,
        act: Callable[[str], None] | None = None,
    ) -> None:
        self._memory = memory
        self._manager = core.manager
        self._trends = trends
        self._leaks = leaks
        self._clock = core.clock
        self._publish = core.events.publish
        self._pace = pace
        self._act = act
        self.changed = pace.changed
        self.next_ns = pace.next_ns
        # All mutable state, of the one thread that samples.
        self._alarms: dict[str, ForecastAlarm] = {}
        self._told_leaks: dict[str, int] = {}
        self._ticked_ns = self._leaks_ns = 0

    def run_due(self) -> None:
        """Sample if it is time to, and decide when to do so next."""
        due_ns = self._pace.next_ns()
        if due_ns is None or due_ns > self._clock.now_ns():
            return
        self._pace.set(due_ns + CALM_NS)  # what changes meanwhile may want it sooner
        try:
            self.sample()
        except Exception as error:  # noqa: BLE001 - a bug, and the worker goes on
            import traceback  # noqa: PLC0415 - only where there is a bug

            log("error", "sampling devices failed", traceback="".join(traceback.format_exception(error)))
        waits = [self._wait_ns(device_id) for device_id in self._manager.devices.ids()]
        self._pace.set(self._clock.now_ns() + min(waits, default=CALM_NS))

    def sample(self) -> None:
        """Sample every device, tell what is new, and act where that is wanted."""
        now = self._clock.now_ns()
        if now - self._ticked_ns >= TIDY_NS:
            self._ticked_ns = now
            self._memory.tick()
        self._memory.sample(max_age_ms=SOONEST_NS // NS_PER_MS // 2)
        devices = self._manager.devices.ids()
        for device_id in devices:
            self._consider_forecast(device_id)
            if self._act is not None:
                self._act(device_id)
        self._leaks.sample(devices)
        if now - self._leaks_ns >= LEAKS_EVERY_NS:
            self._leaks_ns = now
            self._tell_leaks(devices)

    def _wait_ns(self, device_id: str) -> int:
        pressure = self._manager.pressure
        headroom = pressure.headroom(device_id)
        readings = self._manager.samples.latest(device_id)
        to_threshold = None
        if headroom.budget_bytes is not None and headroom.pressure_percentage is not None:
            thresholds = self._manager.devices.limits(device_id).thresholds
            steps = (thresholds.moderate, thresholds.high, thresholds.critical, 100.0)
            following = next((each for each in steps if each > headroom.pressure_percentage), 100.0)
            to_threshold = int(headroom.budget_bytes * (following - headroom.pressure_percentage) / 100)
        wait = next_sample_ns(
            to_threshold,
            headroom.budget_bytes,
            self._trends.bytes_per_second(device_id),
            cached=readings is not None and readings.cached_bytes > 0,
        )
        calm = pressure.level(device_id) in {PressureLevel.LOW, PressureLevel.UNKNOWN}
        return wait if calm else min(wait, TIDY_NS)

    # ---- what is told ----

    def _consider_forecast(self, device_id: str) -> None:
        trend = self._trends.alarming_trend(device_id)
        alarm, say = consider(self._alarms.get(device_id, ForecastAlarm()), trend, self._clock.now_ns())
        self._alarms[device_id] = alarm
        if say:
            available = self._manager.pressure.headroom(device_id).available_bytes
            expected = None if alarm.end_ns is None else trend
            self._publish(ExhaustionForecast(device_id, available, expected))

    def _tell_leaks(self, device_ids: tuple[str, ...]) -> None:
        """Tell of each suspicion once, and again when it has doubled."""
        told = 0
        for leak in self._leaks.suspects(device_ids):
            event = LeakSuspected(leak)
            key = event.about
            if leak.allocated_bytes < 2 * self._told_leaks.get(key, 0) or told == _LEAKS_AT_ONCE:
                continue
            told += 1
            if key not in self._told_leaks and len(self._told_leaks) >= _TOLD_LEAKS_MAX:
                self._told_leaks.clear()
            self._told_leaks[key] = leak.allocated_bytes
            self._publish(event)

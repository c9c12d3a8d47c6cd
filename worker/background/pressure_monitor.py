"""Looking at devices unasked: soon where it is tight or moving, rarely where it is calm; and what is told then.

The ledger's own changes are seen at once, through the device watch; looking is for what others do meanwhile.
"""

import threading
from collections.abc import Callable

from protocol.vocabulary import DeviceState, PressureLevel
from worker.core.clock import NS_PER_MS, NS_PER_S, Clock
from worker.core.events import BudgetChanged, ExhaustionForecast, LeakSuspected, Publish
from worker.core.log import log
from worker.interface.interface_memory import MemoryInterface
from worker.policy.forecast_alarm import ForecastAlarm, consider
from worker.policy.polling import CALM_NS, SOONEST_NS, TIDY_NS, next_look_ns

LEAKS_EVERY_NS = 10 * NS_PER_S
_TOLD_LEAKS_MAX = 1024
_LEAKS_AT_ONCE = 4
"""The largest come first; the others' turn is ten seconds later."""

At = Callable[[int, Callable[[], None]], None]
"""Calls back at a time."""


class PressureWatch:
    """Looks, and tells of budgets, forecasts and suspected leaks. Levels are told by the device watch."""

    def __init__(
        self,
        memory: MemoryInterface,
        clock: Clock,
        publish: Publish,
        at: At,
        act: Callable[[str], None] = lambda _device_id: None,
    ) -> None:
        self._memory = memory
        self._manager = memory.manager
        self._trends = memory.trends
        self._leaks = memory.leaks
        self._clock = clock
        self._publish = publish
        self._at = at
        self._act = act
        self._lock = threading.Lock()
        # All mutable state.
        self._budgets: dict[str, int | None] = {}
        self._alarms: dict[str, ForecastAlarm] = {}
        self._told_leaks: dict[str, int] = {}
        self._due_ns: int | None = None
        """When the next look is; None while nothing looks unasked."""
        self._ticked_ns = self._leaks_ns = 0
        memory.watch.on_observed = self.noticed

    def start(self) -> None:
        """Look now, and from then on."""
        self._schedule(self._clock.now_ns())

    def noticed(self, device_id: str) -> None:
        """Take a change into account, whoever made it: a new budget is told, and the next look comes soon."""
        self._tell_budget(device_id)
        due = self._clock.now_ns() + TIDY_NS
        if self._due_ns is not None and due < self._due_ns:
            self._schedule(due)

    def look(self) -> None:
        """Look at every device, tell what is new, and act where that is wanted."""
        now = self._clock.now_ns()
        if now - self._ticked_ns >= TIDY_NS:
            self._ticked_ns = now
            self._memory.tick()
        self._memory.look(max_age_ms=SOONEST_NS // NS_PER_MS // 2)
        devices = self._memory.device_ids(None)
        for device_id in devices:
            self._consider_forecast(device_id)
            self._act(device_id)
        self._leaks.sample(devices)
        if now - self._leaks_ns >= LEAKS_EVERY_NS:
            self._leaks_ns = now
            self._tell_leaks(devices)

    # ---- when ----

    def _schedule(self, due_ns: int) -> None:
        with self._lock:
            self._due_ns = due_ns
        self._at(due_ns, lambda: self._look_if_due(due_ns))

    def _look_if_due(self, due_ns: int) -> None:
        with self._lock:
            if self._due_ns != due_ns:
                return  # another look was wanted sooner
            self._due_ns = due_ns + CALM_NS  # not None: what changes meanwhile may want it sooner
        try:
            self.look()
        except Exception as error:  # noqa: BLE001 - a bug, and the worker goes on
            import traceback  # noqa: PLC0415 - never, it is to be hoped

            log("error", "looking at devices failed", traceback="".join(traceback.format_exception(error)))
        waits = [self._wait_ns(device_id) for device_id in self._memory.device_ids(None)]
        self._schedule(self._clock.now_ns() + min(waits, default=CALM_NS))

    def _wait_ns(self, device_id: str) -> int:
        room = self._manager.headroom(device_id)
        readings = self._manager.readings(device_id)
        to_threshold = None
        if room.budget_bytes is not None and room.pressure_percentage is not None:
            thresholds = self._manager.limits(device_id).thresholds
            steps = (thresholds.moderate, thresholds.high, thresholds.critical, 100.0)
            following = next((each for each in steps if each > room.pressure_percentage), 100.0)
            to_threshold = int(room.budget_bytes * (following - room.pressure_percentage) / 100)
        wait = next_look_ns(
            to_threshold,
            room.budget_bytes,
            self._trends.bytes_per_second(device_id),
            cached=readings is not None and readings.cached_bytes > 0,
        )
        calm = self._manager.level(device_id) in {PressureLevel.LOW, PressureLevel.UNKNOWN}
        return wait if calm else min(wait, TIDY_NS)

    # ---- what is told ----

    def _tell_budget(self, device_id: str) -> None:
        if self._manager.device(device_id).state is not DeviceState.AVAILABLE:
            return
        room = self._manager.headroom(device_id)
        before = self._budgets.get(device_id, _UNKNOWN)
        if before == room.budget_bytes:
            return
        self._budgets[device_id] = room.budget_bytes
        if before != _UNKNOWN:
            self._publish(
                BudgetChanged(device_id, before, room.budget_bytes, room.budget_source, room.available_bytes)
            )

    def _consider_forecast(self, device_id: str) -> None:
        trend = self._trends.alarming_trend(device_id)
        alarm, say = consider(self._alarms.get(device_id, ForecastAlarm()), trend, self._clock.now_ns())
        self._alarms[device_id] = alarm
        if say:
            available = self._manager.headroom(device_id).available_bytes
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


_UNKNOWN = -1
"""A budget that was not read yet."""

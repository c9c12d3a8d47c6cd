"""Looking at devices: readings when they are needed, and what follows when they show something new."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from protocol.results import DeviceLostData, PressureChangedData
from protocol.vocabulary import DeviceState, EventName, PressureLevel
from worker.backends.base import DeviceBackend
from worker.errors import DeviceLostError
from worker.manager_memory import MemoryManager, unavailable
from worker.policy.pressure import SEVERITY
from worker.worker_analytics import AnalyticsWorker, age_order

READINGS_MAX_AGE_MS = 100
"""Readings are taken again after this, or at once when the ledger changed: one costs about 0.1 ms."""

Publish = Callable[[EventName, str, Any], None]
"""Called with an event, what it is about (later ones replace earlier unsent ones), and its data."""


class DeviceWatch:
    """Keeps the manager's readings recent, tells of new levels, and strikes lost devices out."""

    def __init__(
        self,
        manager: MemoryManager,
        backends: Mapping[str, DeviceBackend],
        analytics: AnalyticsWorker,
        publish: Publish,
    ) -> None:
        self._manager = manager
        self._backends = backends
        self._analytics = analytics
        self._publish = publish
        self.on_observed: Callable[[str], None] = _nobody_watches
        """Called with every device that was observed."""

    def available(self, device_ids: tuple[str, ...]) -> tuple[str, ...]:
        """Return the devices that can be asked. DeviceUnavailableError if the only one cannot."""
        infos = [self._manager.device(device_id) for device_id in device_ids]
        if len(infos) == 1 and infos[0].state is not DeviceState.AVAILABLE:
            raise unavailable(infos[0])
        return tuple(info.device_id for info in infos if info.state is DeviceState.AVAILABLE)

    def refresh(
        self, device_ids: tuple[str, ...], *, max_age_ms: int, exact: bool = True, forced: bool = False
    ) -> None:
        """Take readings where those at hand are too old (``exact``: or older than the ledger)."""
        for device_id in device_ids:
            if forced or self._manager.needs_readings(device_id, max_age_ms, exact=exact):
                look = self._manager.begin_look(device_id)
                try:
                    with self._noting_loss():
                        readings = self._backends[device_id].readings(device_id)
                        self._manager.note_readings(device_id, readings, look)
                finally:
                    self._manager.give_up_look(device_id, look)

    def observe(self, device_ids: tuple[str, ...]) -> None:
        """After a change: enter it in the timeline, tell of a new level, give caches up under pressure."""
        for device_id in device_ids:
            self._manager.mark_stale(device_id)
            readings = self._manager.readings(device_id)
            if readings is not None and readings.largest_block_bytes is not None:
                # Where memory lies in pieces, what can be had now cannot be worked out from before.
                self.refresh((device_id,), max_age_ms=0)
            self._analytics.observe(device_id)
            self.on_observed(device_id)
            change = self._manager.level_change(device_id)
            if change is None:
                continue
            before, now = change
            if SEVERITY[now] >= SEVERITY[PressureLevel.HIGH] and now is not before:
                self._backends[device_id].trim(device_id)
            if before is not PressureLevel.UNKNOWN:
                room = self._manager.headroom(device_id)
                data: PressureChangedData = {
                    "device_id": device_id,
                    "from": before,
                    "to": now,
                    "pressure_percentage": room.pressure_percentage,
                    "available_bytes": room.available_bytes,
                }
                self._publish(EventName.PRESSURE_CHANGED, device_id, data)

    @contextmanager
    def watching_for_loss(self) -> Iterator[None]:
        """Strike out what was on a device that turns out to be gone, then let the error go on."""
        try:
            yield
        except DeviceLostError as error:
            self._lose(error)
            raise

    @contextmanager
    def _noting_loss(self) -> Iterator[None]:
        """Strike out what was on a device that turns out to be gone; who only looked gets an answer."""
        try:
            yield
        except DeviceLostError as error:
            self._lose(error)

    def _lose(self, error: DeviceLostError) -> None:
        device_id = str(error.details["device_id"])
        lost = self._manager.lose_device(device_id, error.message)
        if lost is None:
            return
        names = tuple(allocation.allocation_id for allocation in sorted(lost, key=age_order))
        self._publish(EventName.DEVICE_LOST, device_id, DeviceLostData(device_id, error.message, names))


def _nobody_watches(_device_id: str) -> None:
    """Tell nobody that a device was observed."""

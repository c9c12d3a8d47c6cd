"""Looking at devices: readings when they are needed, and what follows when they show something new."""

import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

from protocol.vocabulary import DeviceState, PressureLevel
from worker.backends.base import DeviceBackend, OwnProcess, ProbedBeside
from worker.core.cancellation import CancelToken
from worker.core.errors import DeviceLostError, DeviceUnavailableError
from worker.core.events import DeviceLost, DeviceRecovered, PressureChanged, Publish
from worker.core.records import DeviceInfo, Lost, Readings, age_order
from worker.manager.devices import unavailable
from worker.manager.manager_memory import MemoryManager
from worker.policy.pressure import DEFAULT_LIMITS, SEVERITY

READINGS_MAX_AGE_MS = 100
"""Readings are taken again after this, or at once when the ledger changed: one costs about 0.1 ms."""

_LOOK_AGAIN_S = 0.05
"""Whoever waits for a probe looks this often whether its own request was cancelled or its time is up."""


class DeviceWatch:
    """Keeps the manager's readings recent, tells of new levels, and strikes lost devices out."""

    def __init__(
        self,
        manager: MemoryManager,
        backends: MutableMapping[str, DeviceBackend],
        record: Callable[[str], None],
        publish: Publish,
    ) -> None:
        self._manager = manager
        self._backends = backends
        self._record = record
        self._publish = publish
        self._known = threading.Condition()
        """Notified when a device is found to be there, or not to be."""
        self.on_observed: Callable[[str], None] = _nobody_watches
        """Called with every device that was observed."""

    # ---- which are there ----

    def begin(self, backend: ProbedBeside) -> None:
        """Have a backend look for its devices, and list those that it expects meanwhile."""
        self.note_devices(backend, backend.devices)
        backend.begin(partial(self.note_devices, backend))

    def note_devices(self, backend: DeviceBackend, found: tuple[DeviceInfo, ...]) -> None:
        """Take over what a backend says of its devices: found, lost, or there again."""
        for info in found:
            if info.device_id not in self._backends:
                self._backends[info.device_id] = backend
                self._manager.add_device(info, DEFAULT_LIMITS)
                continue
            before = self._manager.device(info.device_id).state
            if info.state is DeviceState.LOST:
                self._lose(info.device_id, info.state_reason or "its process ended")
            elif before is DeviceState.LOST and info.state is DeviceState.AVAILABLE:
                lost_ms = self._manager.recover_device(info)
                self._publish(DeviceRecovered(info.device_id, lost_ms))
            elif before is not DeviceState.LOST:
                self._manager.change_device(info)
        with self._known:
            self._known.notify_all()

    def wait_until_known(self, device_ids: tuple[str, ...], token: CancelToken) -> None:
        """Wait for the end of a probe, or of a restart. Raises what the token raises."""
        with self._known:
            while any(self._manager.device(each).state is DeviceState.PROBING for each in device_ids):
                token.check()
                self._known.wait(_LOOK_AGAIN_S)

    def lose_part(self, device_id: str, names: frozenset[str], reason: str) -> None:
        """Strike out what did not come back to a device that is there again, and tell of it."""
        self._tell_of_loss(device_id, reason, self._manager.lose_part(device_id, names))

    def available(self, device_ids: tuple[str, ...], token: CancelToken | None = None) -> tuple[str, ...]:
        """Return the devices that can be asked. DeviceUnavailableError if the only one cannot.

        With a token, the only one is waited for while it is not known.
        """
        if token is not None and len(device_ids) == 1:
            self.wait_until_known(device_ids, token)
        infos = [self._manager.device(device_id) for device_id in device_ids]
        if len(infos) == 1 and infos[0].state is not DeviceState.AVAILABLE:
            raise unavailable(infos[0])
        return tuple(info.device_id for info in infos if info.state is DeviceState.AVAILABLE)

    # ---- what they say ----

    def refresh(
        self, device_ids: tuple[str, ...], *, max_age_ms: int, exact: bool = True, forced: bool = False
    ) -> None:
        """Take readings where those at hand are too old (``exact``: or older than the ledger)."""
        for device_id in device_ids:
            if self._manager.needs_readings(device_id, max_age_ms, exact=exact, forced=forced):
                look = self._manager.begin_look(device_id)
                try:
                    with self._noting_loss():
                        self._manager.note_readings(device_id, self._readings(device_id), look)
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
            self._record(device_id)
            self.on_observed(device_id)
            change = self._manager.level_change(device_id)
            if change is None:
                continue
            before, now = change
            if SEVERITY[now] >= SEVERITY[PressureLevel.HIGH] and now is not before:
                with suppress(DeviceUnavailableError):  # it went away just now, and that is told of
                    self._backends[device_id].trim(device_id)
            if before is not PressureLevel.UNKNOWN:
                room = self._manager.headroom(device_id)
                self._publish(
                    PressureChanged(device_id, before, now, room.pressure_percentage, room.available_bytes)
                )

    @contextmanager
    def watching_for_loss(self) -> Iterator[None]:
        """Strike out what was on a device that turns out to be gone, then let the error go on."""
        try:
            yield
        except DeviceLostError as error:
            self._lose(str(error.details["device_id"]), error.message)
            raise

    @contextmanager
    def _noting_loss(self) -> Iterator[None]:
        """Strike out what was on a device that turns out to be gone; who only looked gets an answer."""
        try:
            yield
        except DeviceLostError as error:
            self._lose(str(error.details["device_id"]), error.message)
        except DeviceUnavailableError:
            pass  # its process ended or is replaced just now: whoever replaces it tells

    # ---- inside ----

    def _readings(self, device_id: str) -> Readings:
        """Ask a device; a restart helps only one that has a process to restart."""
        backend = self._backends[device_id]
        readings = backend.readings(device_id)
        if readings.restart_returns_bytes is None or isinstance(backend, OwnProcess):
            return readings
        return replace(readings, restart_returns_bytes=None)

    def _lose(self, device_id: str, reason: str) -> None:
        lost = self._manager.lose_device(device_id, reason)
        if lost is not None:
            self._tell_of_loss(device_id, reason, lost)

    def _tell_of_loss(self, device_id: str, reason: str, lost: Lost) -> None:
        names = tuple(each.allocation_id for each in sorted(lost.allocations, key=age_order))
        self._publish(DeviceLost(device_id, reason, names, lost.model_ids))


def _nobody_watches(_device_id: str) -> None:
    """Tell nobody that a device was observed."""

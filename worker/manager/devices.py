"""The devices of the accounts: which are there, their readings, what they can still give, and their levels.

Pure, as all of the manager is.
"""

import threading
from dataclasses import replace

from protocol.results import Limits, PressureSignal
from protocol.vocabulary import DeviceState, Executed, PressureLevel
from worker.core.clock import NS_PER_MS, Clock
from worker.core.errors import DeviceNotFoundError, DeviceUnavailableError
from worker.core.records import DeviceInfo, Gauge, Readings
from worker.manager.ledger import DeviceLedger
from worker.policy.levels import DWELL_NS, HeldLevel, as_signals, budget_gauge, settle_all
from worker.policy.pressure import Books, Headroom, headroom, level_of, worst


class Device:
    """All that is known of one device."""

    def __init__(self, info: DeviceInfo, limits: Limits) -> None:
        # All mutable state of a device.
        self.info = info
        self.limits = limits
        self.ledger = DeviceLedger()
        self.readings: Readings | None = None
        self.read_ns = 0
        self.looks_begun = 0
        self.stale = True
        """Whether the ledger changed since the readings were taken."""
        self.level = PressureLevel.UNKNOWN
        """As it was last told."""
        self.held: dict[str, HeldLevel] = {}
        """The level of each signal of pressure."""
        self.lost_ns = 0
        """When it was lost last."""
        # Derived, and made again when the manager's version is another: asked for several times a change.
        self.room: tuple[int, Headroom] | None = None
        self.settled: tuple[int, int, tuple[Gauge, ...]] | None = None
        """By which version, when, and by which gauges the levels were last moved on."""


class DeviceBooks:
    """Every device's readings, limits and levels, under one lock."""

    def __init__(self, clock: Clock, dwell_ns: int = DWELL_NS) -> None:
        self._clock = clock
        self._dwell_ns = dwell_ns
        self.lock = self._lock = threading.RLock()
        """What holds several steps together: the models' own manager takes it around its own."""
        # All mutable state of devices.
        self._devices: dict[str, Device] = {}
        self._device_ids: tuple[str, ...] = ()
        self.version = 0
        """Changes with every change of any figure."""

    # ---- which are there ----

    def add_device(self, info: DeviceInfo, limits: Limits) -> None:
        """Start the books of a device."""
        with self._lock:
            self._devices[info.device_id] = Device(info, limits)
            self._device_ids = tuple(self._devices)
            self.version += 1

    def device_ids(self) -> tuple[str, ...]:
        """Return all devices, in the order they were found."""
        return self._device_ids

    def device(self, device_id: str) -> DeviceInfo:
        """Return one device. DeviceNotFoundError if there is none of that name."""
        with self._lock:
            return self._get(device_id).info

    def recover_device(self, info: DeviceInfo) -> int:
        """Note that a lost device is there again, and empty. Returns for how many ms it was away."""
        with self._lock:
            self.change_device(info)
            return (self._clock.now_ns() - self._get(info.device_id).lost_ns) // NS_PER_MS

    def change_device(self, info: DeviceInfo) -> None:
        """Take over what a device is found to be; what is on it stays."""
        with self._lock:
            device = self._get(info.device_id)
            device.info, device.stale = info, True
            self.version += 1

    def pause_devices(self, device_ids: tuple[str, ...], reason: str) -> None:
        """Keep devices from being asked, because their process is replaced; what is on them stays."""
        with self._lock:
            for device_id in device_ids:
                info = self._get(device_id).info
                if info.state is DeviceState.AVAILABLE:
                    self.change_device(replace(info, state=DeviceState.PROBING, state_reason=reason))

    def resume_devices(self, device_ids: tuple[str, ...]) -> None:
        """End a pause; nothing happens to devices that are not paused any more."""
        with self._lock:
            for device_id in device_ids:
                info = self._get(device_id).info
                if info.state is DeviceState.PROBING:
                    self.change_device(replace(info, state=DeviceState.AVAILABLE, state_reason=None))

    def default_device(self, asked: str | None, host: str) -> str:
        """Return the device of requests that name none: the one asked for, else the first accelerator.

        An accelerator whose probe failed is none; one that is being probed, or was lost, may come (again).
        """
        if asked is not None:
            return asked
        with self._lock:
            there = (
                device_id
                for device_id, device in self._devices.items()
                if device_id != host and device.info.state is not DeviceState.UNAVAILABLE
            )
            return next(there, host)

    # ---- readings ----

    def note_readings(self, device_id: str, readings: Readings, look: int) -> None:
        """Take readings over. ``look`` is what ``begin_look`` said before they were taken."""
        with self._lock:
            device = self._get(device_id)
            ledger = device.ledger
            if look not in ledger.looks:
                return  # the device was lost since: they are of what was there before
            device.readings = readings
            self.version += 1
            device.read_ns = self._clock.now_ns()
            ledger.noted_bytes = ledger.looks.pop(look)
            device.stale = device.ledger.drift_bytes != 0

    def begin_look(self, device_id: str) -> int:
        """Note that readings are about to be taken; end it with ``note_readings`` or ``give_up_look``."""
        with self._lock:
            device = self._get(device_id)
            device.looks_begun += 1
            device.ledger.looks[device.looks_begun] = device.ledger.taken_bytes
            return device.looks_begun

    def give_up_look(self, device_id: str, look: int) -> None:
        """Note that no readings came of it; nothing happens if some did."""
        with self._lock:
            self._get(device_id).ledger.looks.pop(look, None)

    def needs_readings(
        self, device_id: str, max_age_ms: int, *, exact: bool = True, forced: bool = False
    ) -> bool:
        """Tell whether readings are missing, too old or (``exact``) older than the ledger's last change.

        ``forced``: whether there is a device to be read at all.
        """
        with self._lock:
            device = self._get(device_id)
            if device.info.state is not DeviceState.AVAILABLE:
                return False
            if forced or device.readings is None or (exact and device.stale):
                return True
            return self._clock.now_ns() - device.read_ns > max_age_ms * NS_PER_MS

    def mark_stale(self, device_id: str) -> None:
        """Note that a device changed in a way that the ledger does not show: its readings no longer hold."""
        with self._lock:
            self._get(device_id).stale = True
            self.version += 1

    def is_stale(self, device_id: str) -> bool:
        """Tell whether the ledger changed since the last readings."""
        with self._lock:
            return self._get(device_id).stale

    def read_ns(self, device_ids: tuple[str, ...]) -> int:
        """Return when the oldest readings of these devices were taken; now, where there are none."""
        with self._lock:
            times = [device.read_ns for device in map(self._get, device_ids) if device.readings]
            return min(times, default=self._clock.now_ns())

    # ---- what they can give ----

    def headroom(self, device_id: str) -> Headroom:
        """Return what a device can still give, by its last readings."""
        with self._lock:
            return self._headroom(self._get(device_id))

    def level(self, device_id: str) -> PressureLevel:
        """Return a device's pressure level: the worst of its signals', each held so that it does not flap."""
        with self._lock:
            return self._level(self._get(device_id))

    def level_now(self, device_id: str) -> PressureLevel:
        """Return what the budget alone says at this moment, nothing held: for before and after of an action."""
        with self._lock:
            device = self._get(device_id)
            return level_of(self._headroom(device).pressure_percentage, device.limits.thresholds)

    def signals(self, device_id: str) -> tuple[PressureSignal, ...]:
        """Return every reason for a device's level, the worst first."""
        with self._lock:
            device = self._get(device_id)
            gauges = self._settle(device)
            return as_signals(gauges, device.held)

    def readings(self, device_id: str) -> Readings | None:
        """Return a device's last readings."""
        with self._lock:
            return self._get(device_id).readings

    def level_change(self, device_id: str) -> tuple[PressureLevel, PressureLevel] | None:
        """Return (before, now) where a device's level is another than at the last call."""
        with self._lock:
            device = self._get(device_id)
            before, device.level = device.level, self.level(device_id)
            return (before, device.level) if device.level is not before else None

    # ---- limits ----

    def limits(self, device_id: str) -> Limits:
        """Return a device's configured limits."""
        with self._lock:
            return self._get(device_id).limits

    def set_limits(self, device_id: str, limits: Limits) -> None:
        """Replace a device's limits. What is allocated already stays."""
        with self._lock:
            self._get(device_id).limits = limits
            self.version += 1

    # ---- inside ----

    def _get(self, device_id: str) -> Device:
        device = self._devices.get(device_id)
        if device is None:
            known = list(self._devices)
            message = f"no device {device_id!r}; there are {', '.join(known)}"
            raise DeviceNotFoundError(message, device_id=device_id, known_devices=known)
        return device

    def _headroom(self, device: Device) -> Headroom:
        if device.room is None or device.room[0] != self.version:
            room = headroom(device.readings or NO_READINGS, device.limits, books_of(device))
            device.room = (self.version, room)
        return device.room[1]

    def _settle(self, device: Device) -> tuple[Gauge, ...]:
        """Move the levels of a device's signals on to this moment, and return what they go by."""
        now = self._clock.now_ns()
        if device.settled is not None:
            version, settled_ns, gauges = device.settled
            if version == self.version and now - settled_ns < NS_PER_MS:
                return gauges
        room = self._headroom(device)
        gauges = budget_gauge(room.pressure_percentage, room.budget_source)
        if device.readings is not None:
            gauges += device.readings.gauges
        device.held = settle_all(device.held, gauges, device.limits.thresholds, now, self._dwell_ns)
        device.settled = (self.version, now, gauges)
        return gauges

    def _level(self, device: Device) -> PressureLevel:
        self._settle(device)
        return worst([held.level for held in device.held.values()])


NO_READINGS = Readings(None, None, None, None, None, None, None, 0, 0, None)


def books_of(device: Device) -> Books:
    """Return what the ledger counts against a device's room."""
    ledger = device.ledger
    taken = ledger.allocated_bytes + ledger.model_bytes
    return Books(taken, ledger.reserved_bytes, ledger.drift_bytes)


def unavailable(info: DeviceInfo) -> DeviceUnavailableError:
    """Make the error for a device that is not there to be asked."""
    return DeviceUnavailableError(
        f"{info.device_id} is {info.state}: {info.state_reason}", device_id=info.device_id, state=info.state
    )


def went_with_its_device(info: DeviceInfo) -> DeviceUnavailableError:
    """Make the error for what was made on a device that was lost before it could be entered."""
    error = DeviceUnavailableError(
        f"{info.device_id} was lost meanwhile: {info.state_reason}",
        device_id=info.device_id,
        state=info.state,
    )
    error.executed = Executed.NO
    return error


def utilization_percentage(readings: Readings) -> float | None:
    """Return the used share of the whole device, None where it can't be told."""
    if readings.used_bytes is None or not readings.total_bytes:
        return None
    return round(min(100.0, 100 * readings.used_bytes / readings.total_bytes), 3)

"""The readings of each device, and what the ledger has changed since. Pure; under the manager's lock."""

from protocol.vocabulary import DeviceState
from worker.core.clock import NS_PER_MS, Clock
from worker.core.records import Readings
from worker.manager.devices import DeviceTable
from worker.policy.pressure import follow_budget


class SampleTable:
    """The last readings of every device. A sample is begun, taken outside the lock, and noted or given up."""

    def __init__(self, devices: DeviceTable, clock: Clock) -> None:
        self._devices = devices
        self._clock = clock
        self._lock = devices.lock

    def begin(self, device_id: str) -> int:
        """Note that readings are about to be taken; end it with ``note`` or ``give_up``."""
        with self._lock:
            device = self._devices.get(device_id)
            sample = device.samples_begun + 1
            device.ledger.samples[sample] = device.ledger.committed_bytes
            device.samples_begun = sample
            return sample

    def note(self, device_id: str, readings: Readings, sample: int, age_ns: int = 0) -> None:
        """Take readings over. ``sample`` is what ``begin`` said before they were taken.

        ``age_ns``: how long ago the device said so, where nothing was changed since.
        """
        with self._lock:
            device = self._devices.get(device_id)
            ledger = device.ledger
            if sample not in ledger.samples:
                return  # the device was lost since: they are of what was there before
            if device.readings is not None:
                before = device.readings.budget_bytes
                device.limits = follow_budget(device.limits, before, readings.budget_bytes)
            device.readings = readings
            self._devices.version += 1
            device.read_ns = self._clock.now_ns() - age_ns
            ledger.noted_bytes = ledger.samples.pop(sample)
            device.stale = ledger.drift_bytes != 0

    def give_up(self, device_id: str, sample: int) -> None:
        """Note that no readings came of it; nothing happens if some did."""
        with self._lock:
            self._devices.get(device_id).ledger.samples.pop(sample, None)

    def needed(self, device_id: str, max_age_ms: int, *, exact: bool = True, forced: bool = False) -> bool:
        """Tell whether readings are missing, too old or (``exact``) older than the ledger's last change.

        ``forced``: whether there is a device to be read at all.
        """
        self._lock.acquire()
        try:
            device = self._devices.get(device_id)
            if device.info.state is not DeviceState.AVAILABLE:
                return False
            if forced or device.readings is None or (exact and device.stale):
                return True
            return self._clock.now_ns() - device.read_ns > max_age_ms * NS_PER_MS
        finally:
            self._lock.release()

    def mark_stale(self, device_id: str) -> None:
        """Note that a device changed in a way that the ledger does not show: its readings no longer hold."""
        with self._lock:
            self._devices.get(device_id).stale = True
            self._devices.version += 1

    def latest(self, device_id: str) -> Readings | None:
        """Return a device's last readings."""
        return self._devices.get(device_id).readings  # one value: it needs no lock

    def read_ns(self, device_id: str) -> int | None:
        """Return when a device's readings were taken; None where there are none."""
        with self._lock:
            device = self._devices.get(device_id)
            return None if device.readings is None else device.read_ns

    def oldest_ns(self, device_ids: tuple[str, ...]) -> int:
        """Return when the oldest readings of these devices were taken; now, where there are none."""
        with self._lock:
            times = [device.read_ns for device in map(self._devices.get, device_ids) if device.readings]
            return min(times, default=self._clock.now_ns())

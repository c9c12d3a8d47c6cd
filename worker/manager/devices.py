"""The devices: which are there, in which state, with which limits. Pure, as all of the manager is."""

from dataclasses import replace

from protocol.results import Limits
from protocol.vocabulary import DeviceKind, DeviceState, Executed, PressureLevel
from worker.core.atomic import Store
from worker.core.clock import NS_PER_MS, Clock
from worker.core.errors import DeviceNotFoundError, DeviceUnavailableError
from worker.core.records import HOST, Allocation, DeviceInfo, Readings, Signal
from worker.core.sure_lock import SureRLock
from worker.manager.ledger import DeviceLedger
from worker.policy.levels import HeldLevel
from worker.policy.pressure import Headroom, LedgerTotals


class Device:
    """All that is known of one device."""

    def __init__(self, info: DeviceInfo, limits: Limits) -> None:
        # All mutable state of a device.
        self.info = info
        self.limits = limits
        self.ledger = DeviceLedger()
        self.readings: Readings | None = None
        self.read_ns = 0
        self.samples_begun = 0
        self.stale = True
        """Whether the ledger changed since the readings were taken."""
        self.observed_level = PressureLevel.UNKNOWN
        self.observed_budget: tuple[int | None] | None = None
        """The budget at the last observation; None before the first."""
        self.observed_demoted_bytes = 0
        """What was told of last."""
        self.held: dict[str, HeldLevel] = {}
        """The level of each signal of pressure."""
        self.lost_ns = 0
        """When it was lost last."""
        self.losing: tuple[Allocation, ...] = ()
        """What was on it, while that is being removed because it is lost."""
        # Derived, and made again when the table's version is another: asked for several times a change.
        self.headroom: tuple[int, Headroom] | None = None
        self.settled: tuple[int, int, tuple[Signal, ...]] | None = None
        """By which version, when, and by which signals the levels were last moved on."""

    def totals(self) -> LedgerTotals:
        """Return what the ledger counts against the device's headroom."""
        ledger = self.ledger
        allocated = ledger.allocated_bytes + ledger.model_bytes
        process_bytes = (self.readings or NO_READINGS).process_held_bytes
        # Working memory that is in use shows as more of the process than the ledger has: it is not kept free again.
        working = 0 if process_bytes is None else max(0, process_bytes - ledger.committed_bytes)
        reserved = ledger.reserved_bytes + max(0, ledger.working_bytes - working)
        return LedgerTotals(allocated, reserved, ledger.drift_bytes)


class DeviceTable:
    """Every device, and the one lock of the manager."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.lock = SureRLock()
        """Guards all of the manager. Held over several steps that belong together; never across I/O."""
        # All mutable state of this table.
        self._devices: dict[str, Device] = {}
        self._ids: tuple[str, ...] = ()
        self.version = 0
        """Changes with every change of any figure."""

    def add(self, info: DeviceInfo, limits: Limits) -> None:
        """Add a device."""
        with self.lock:
            self._devices[info.device_id] = Device(info, limits)
            self._ids = tuple(self._devices)
            self.version += 1

    def ids(self) -> tuple[str, ...]:
        """Return all devices, in the order they were found."""
        return self._ids

    def get(self, device_id: str) -> Device:
        """Return a device's state, for who holds the lock. DeviceNotFoundError if there is none of that name."""
        device = self._devices.get(device_id)
        if device is None:
            known = list(self._devices)
            message = f"no device {device_id!r}; there are {', '.join(known)}"
            raise DeviceNotFoundError(message, device_id=device_id, known_devices=known)
        return device

    def changing(self, device: Device, *, stale: bool = True) -> list[Store]:
        """Return what says that a figure of a device changed; ``stale``: that its readings are from before."""
        return [(vars(device), "stale", stale), (vars(self), "version", self.version + 1)]

    def all(self) -> tuple[Device, ...]:
        """Return the state of every device, for who holds the lock."""
        return tuple(self._devices.values())

    def object_bytes(self, device: Device) -> int:
        """Return what models that are Python objects take of a device, for who holds the lock.

        They are host memory, whatever device they are for.
        """
        if device.info.kind is not DeviceKind.CPU:
            return 0
        return sum(sum(each.ledger.objects.values()) for each in self._devices.values())

    def info(self, device_id: str) -> DeviceInfo:
        """Return one device. DeviceNotFoundError if there is none of that name."""
        return self.get(device_id).info  # one value: it needs no lock

    def recover(self, info: DeviceInfo) -> int:
        """Note that a lost device is there again, and empty. Returns for how many ms it was away."""
        with self.lock:
            self.change(info)
            return (self._clock.now_ns() - self.get(info.device_id).lost_ns) // NS_PER_MS

    def change(self, info: DeviceInfo) -> None:
        """Take over what a device is found to be; what is on it stays."""
        with self.lock:
            device = self.get(info.device_id)
            device.info, device.stale = info, True
            self.version += 1

    def pause(self, device_ids: tuple[str, ...], reason: str) -> None:
        """Keep devices from being asked, because their process is replaced; what is on them stays."""
        self._change_state(device_ids, DeviceState.AVAILABLE, DeviceState.PROBING, reason)

    def resume(self, device_ids: tuple[str, ...]) -> None:
        """End a pause; nothing happens to devices that are not paused any more."""
        self._change_state(device_ids, DeviceState.PROBING, DeviceState.AVAILABLE, None)

    def default(self, asked: str | None) -> str:
        """Return the device of requests that name none: the one asked for, else the first accelerator.

        An accelerator whose probe failed is none; one that is being probed, or was lost, may come (again).
        """
        if asked is not None:
            return asked
        with self.lock:
            there = (
                device_id
                for device_id, device in self._devices.items()
                if device_id != HOST and device.info.state is not DeviceState.UNAVAILABLE
            )
            return next(there, HOST)

    def limits(self, device_id: str) -> Limits:
        """Return a device's configured limits."""
        with self.lock:
            return self.get(device_id).limits

    def set_limits(self, device_id: str, limits: Limits) -> None:
        """Replace a device's limits. What is allocated already stays; levels that others had led to are not held."""
        with self.lock:
            device, version = self.get(device_id), self.version + 1
            anew = dict[str, HeldLevel]()
            device.limits, device.held, self.version = limits, anew, version

    def _change_state(
        self, device_ids: tuple[str, ...], before: DeviceState, after: DeviceState, reason: str | None
    ) -> None:
        with self.lock:
            for device_id in device_ids:
                info = self.get(device_id).info
                if info.state is before:
                    self.change(replace(info, state=after, state_reason=reason))


NO_READINGS = Readings(None, None, None, None, None, None, None, 0, 0, None)


def unavailable(info: DeviceInfo) -> DeviceUnavailableError:
    """Make the error for a device that is not there to be asked."""
    return DeviceUnavailableError(
        f"{info.device_id} is {info.state}: {info.state_reason}", device_id=info.device_id, state=info.state
    )


def went_with_its_device(info: DeviceInfo) -> DeviceUnavailableError:
    """Make the error for what was made on a device that was lost before it could be committed."""
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

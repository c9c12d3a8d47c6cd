"""What each device can still give, and how close it is to its limits. Pure; under the manager's lock."""

from protocol.record import Record
from protocol.results import DeviceStatus, Limits, PressureSignal
from protocol.vocabulary import DeviceState, PressureLevel, Source
from worker.core.clock import NS_PER_MS, Clock
from worker.core.records import AllocationRequest, Readings, Signal
from worker.manager.devices import NO_READINGS, Device, DeviceTable, utilization_percentage
from worker.policy.admission import can_ever_fit, left_bytes, missing_below_cap, missing_bytes
from worker.policy.holders import unattributed_bytes
from worker.policy.levels import BUDGET_USED, as_signals, budget_signal, is_another_demotion, settle_all
from worker.policy.pressure import Headroom, LedgerTotals, for_others, headroom, level_of, within, worst


class BudgetChange(Record):
    """Another budget than at the last observation."""

    previous_bytes: int | None
    budget_bytes: int | None
    source: Source | None


class DemotionChange(Record):
    """Another amount of this process's device memory in the system's than was told of last."""

    previous_bytes: int
    demoted_bytes: int


class Observation(Record):
    """A device at one moment, all of it of the same one: what follows from a change is worked out from this."""

    status: DeviceStatus
    readings: Readings | None
    headroom: Headroom
    limits: Limits
    exact: bool
    """Whether the readings show all that the ledger has."""
    previous_level: PressureLevel | None
    """The level at the last observation, where it was another."""
    budget_change: BudgetChange | None
    """None at the first observation, too."""
    demotion_change: DemotionChange | None


class PressureTable:
    """Headroom and levels, by the last readings and the ledger."""

    def __init__(self, devices: DeviceTable, clock: Clock, dwell_ns: int) -> None:
        self._devices = devices
        self._clock = clock
        self._dwell_ns = dwell_ns
        self._lock = devices.lock

    def headroom(self, device_id: str) -> Headroom:
        """Return what a device can still give, by its last readings."""
        with self._lock:
            return self.headroom_of(self._devices.get(device_id))

    def missing_bytes(self, device_id: str, size_bytes: int) -> int:
        """Return how much would have to be freed for a size to fit, what is promised to others counted."""
        with self._lock:
            return max(
                missing_bytes(size_bytes, each.readings or NO_READINGS, each.limits, self._totals(each))
                for each in self._sharing(self._devices.get(device_id))
            )

    def demoted_share(self, device_id: str) -> float:
        """Return what share of what this worker holds of a device the system moved out of it, when it was last read."""
        with self._lock:
            readings = self._devices.get(device_id).readings
            if readings is None or not readings.process_demoted_bytes:
                return 0.0
            return readings.process_demoted_bytes / (
                readings.process_held_bytes or readings.process_demoted_bytes
            )

    def missing_below_cap(self, device_id: str, size_bytes: int) -> int:
        """Return how much of what is missing only the worker's own memory can free: it is over a cap of its own."""
        with self._lock:
            return max(
                missing_below_cap(size_bytes, each.limits, self._totals(each))
                for each in self._sharing(self._devices.get(device_id))
            )

    def capacity_for(self, device_id: str, resident_bytes: int) -> int | None:
        """Return what models can take where they have so much; None where that can't be told now.

        It can't while something is made there, or before what changed is in the readings: a part of it would
        count twice, or not at all.
        """
        with self._lock:
            device = self._devices.get(device_id)
            if device.ledger.reserved_bytes or device.stale:
                return None
            left = left_bytes(device.readings or NO_READINGS, device.limits, self._totals(device))
            return None if left is None else max(0, left + resident_bytes)

    def can_ever_fit(self, request: AllocationRequest) -> bool:
        """Tell whether a request could fit if all went that may go; true where there are no figures."""
        with self._lock:
            device = self._devices.get(request.device_id)
            readings, staying = device.readings or NO_READINGS, device.ledger.staying_bytes
            return can_ever_fit(request.size_bytes, readings, device.limits, staying)

    def level(self, device_id: str) -> PressureLevel:
        """Return a device's pressure level: the worst of its signals', each held so that it does not flap."""
        with self._lock:
            return self._level(self._devices.get(device_id))

    def level_for_others(self, device_id: str) -> PressureLevel:
        """Return a device's level for those whose memory does not count towards the worker's own cap: without it."""
        with self._lock:
            device = self._devices.get(device_id)
            level, there = self._level(device), self.headroom_of(device)
            if there.uncapped_bytes == there.total_bytes:
                return level
            percentage = for_others(there).pressure_percentage
            others = [held.level for name, held in device.held.items() if name != BUDGET_USED]
            return worst([level_of(percentage, device.limits.thresholds), *others])

    def level_now(self, device_id: str) -> PressureLevel:
        """Return what the budget alone says at this moment, nothing held: for before and after of an action."""
        with self._lock:
            device = self._devices.get(device_id)
            return level_of(self.headroom_of(device).pressure_percentage, device.limits.thresholds)

    def signals(self, device_id: str) -> tuple[PressureSignal, ...]:
        """Return every reason for a device's level, the worst first."""
        with self._lock:
            device = self._devices.get(device_id)
            return as_signals(self._settle(device), device.held)

    def status(self, device_id: str) -> DeviceStatus:
        """Return where a device's memory is, by its last readings; the optional parts are left out."""
        with self._lock:
            return self._status(self._devices.get(device_id))

    def unattributed_bytes(self, device_id: str) -> int | None:
        """Return what this process takes on a device beyond what is explained; None where readings are not exact."""
        with self._lock:
            device = self._devices.get(device_id)
            return None if device.stale else self._status(device).unattributed_bytes

    def observe(self, device_id: str) -> Observation:
        """Return a device as it is now, and what is new since the last call, as one step."""
        self._lock.acquire()
        try:
            device = self._devices.get(device_id)
            status, now = self._status(device), self.headroom_of(device)
            before, known = device.observed_level, device.observed_budget
            change, budget = None, known
            if device.info.state is DeviceState.AVAILABLE:
                budget = (now.budget_bytes,)
                if known is not None and known != budget:
                    change = BudgetChange(known[0], now.budget_bytes, now.budget_source)
            demoted, told = status.process_demoted_bytes or 0, device.observed_demoted_bytes
            demotion = None
            if is_another_demotion(told, demoted):
                demotion, told = DemotionChange(told, demoted), demoted
            seen = Observation(
                status,
                device.readings,
                now,
                device.limits,
                exact=not device.stale,
                previous_level=before if before is not status.pressure_level else None,
                budget_change=change,
                demotion_change=demotion,
            )
            # Where memory was short before, the next call sees the same as new.
            device.observed_level, device.observed_budget = status.pressure_level, budget
            device.observed_demoted_bytes = told
            return seen
        finally:
            self._lock.release()

    def headroom_of(self, device: Device) -> Headroom:
        """Return what a device can still give, for who holds the lock."""
        version = self._devices.version
        if device.headroom is None or device.headroom[0] != version:
            found = headroom(device.readings or NO_READINGS, device.limits, self._totals(device))
            for other in self._sharing(device)[1:]:
                found = within(found, self.headroom_of(other))
            device.headroom = (version, found)
        return device.headroom[1]

    # ---- inside ----

    def _sharing(self, device: Device) -> tuple[Device, ...]:
        """Return a device, and the one whose memory it has: what is made there takes headroom of both."""
        shared = device.info.shared_with
        return (device,) if shared is None else (device, self._devices.get(shared))

    def _totals(self, device: Device) -> LedgerTotals:
        """Return what counts against a device's headroom: also what is on those that have its memory, or on its way there."""
        totals = device.totals()
        for other in self._devices.all():
            if other.info.shared_with == device.info.device_id:
                more = other.totals()
                totals = LedgerTotals(
                    totals.allocated_bytes + more.allocated_bytes,
                    totals.reserved_bytes + more.reserved_bytes,
                    totals.drift_bytes + more.drift_bytes,
                )
        return totals

    def _settle(self, device: Device) -> tuple[Signal, ...]:
        """Move the levels of a device's signals on to this moment, and return what they go by."""
        now, version = self._clock.now_ns(), self._devices.version
        if device.settled is not None:
            settled_by, settled_ns, signals = device.settled
            if settled_by == version and now - settled_ns < NS_PER_MS:
                return signals
        there = self.headroom_of(device)
        signals = budget_signal(there.pressure_percentage, there.budget_source)
        if device.readings is not None:
            signals += device.readings.signals
        device.held = settle_all(device.held, signals, device.limits.thresholds, now, self._dwell_ns)
        device.settled = (version, now, signals)
        return signals

    def _level(self, device: Device) -> PressureLevel:
        self._settle(device)
        return worst([held.level for held in device.held.values()])

    def _status(self, device: Device) -> DeviceStatus:
        ledger, readings, info = device.ledger, device.readings or NO_READINGS, device.info
        there = self.headroom_of(device)
        age_ms = None
        if device.readings is not None:
            age_ms = max(0, self._clock.now_ns() - device.read_ns) // NS_PER_MS
        return DeviceStatus(
            device_id=info.device_id,
            kind=info.kind,
            name=info.name,
            state=info.state,
            state_reason=info.state_reason,
            age_ms=age_ms,
            total_bytes=readings.total_bytes,
            total_source=readings.total_source,
            budget_bytes=there.budget_bytes,
            budget_source=there.budget_source,
            used_bytes=readings.used_bytes,
            used_source=readings.used_source,
            process_used_bytes=readings.process_used_bytes,
            process_used_source=readings.process_used_source,
            child_process_bytes=readings.child_process_bytes,
            allocated_bytes=ledger.allocated_bytes,
            external_bytes=ledger.external_bytes,
            cached_bytes=readings.cached_bytes,
            unattributed_bytes=unattributed_bytes(readings, self._devices.object_bytes(device)),
            available_bytes=there.available_bytes,
            peak_allocated_bytes=ledger.peak_allocated_bytes,
            allocation_count=len(ledger.allocations),
            model_bytes=ledger.model_bytes,
            utilization_percentage=utilization_percentage(readings),
            pressure_level=self._level(device),
            allocations=None,
            usage=None,
            fragmentation=None,
            demoted_bytes=readings.demoted_bytes,
            process_demoted_bytes=readings.process_demoted_bytes,
            shared_with=info.shared_with,
        )

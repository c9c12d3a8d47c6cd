"""The numbers: what is allocated where, what can still be had, and what is over a limit.

Pure: it is given a clock and readings, and touches no device. One lock guards all of it and is
never held across I/O. A change is reserved, then made by a backend, then committed or released.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from protocol.results import AllocationRow, DeviceStatus, UsageGroup
from protocol.vocabulary import DeviceState, GroupBy, MemoryType
from worker.core.clock import NS_PER_MS, Clock
from worker.core.errors import (
    AllocationNotFoundError,
)
from worker.core.records import (
    Allocation,
    AllocationRequest,
    Block,
    Lost,
    OwnerFlow,
    Reservation,
)
from worker.manager.devices import (
    NO_READINGS,
    DeviceBooks,
    books_of,
    unavailable,
    utilization_percentage,
    went_with_its_device,
)
from worker.policy.admission import admit, count, missing_bytes
from worker.policy.levels import DWELL_NS

_ENDINGS_KEPT = 1024
"""Allocations that ended otherwise than by being freed, and are remembered for the error that names why."""


class MemoryManager(DeviceBooks):
    """What is on every device, and what is about to be."""

    def __init__(self, clock: Clock, dwell_ns: int = DWELL_NS) -> None:
        super().__init__(clock, dwell_ns)
        self.on_lost: Callable[[str, frozenset[str] | None], tuple[str, ...]] = _no_models
        """Called with a device that went away, while the lock is held; or with what could not be brought back
        to it. Returns the models that were lost."""
        # All mutable state of the worker's accounting, besides the devices'.
        self._owning: dict[str, str] = {}
        """Device id of each live allocation."""
        self._next_allocation = 1
        self._endings: OrderedDict[str, str] = OrderedDict()

    # ---- what goes with a device ----

    def lose_device(self, device_id: str, reason: str) -> Lost | None:
        """Strike out what was on a device that went away. Returns what was lost; None if that was known."""
        with self._lock:
            device = self._get(device_id)
            if device.info.state is DeviceState.LOST:
                return None
            device.info = replace(device.info, state=DeviceState.LOST, state_reason=reason)
            device.lost_ns = self._clock.now_ns()
            self.version += 1
            device.readings = None
            lost = tuple(each for each in device.ledger.allocations.values() if not each.external)
            for allocation in lost:
                self.remove(allocation.allocation_id, ending="device_lost")
            device.ledger.drop_weights()
            device.ledger.drop_reservations()
            return Lost(lost, self.on_lost(device_id, None))

    # ---- one transaction ----

    def new_allocation_id(self) -> str:
        """Return the next id. Named when a request is admitted, so that ids follow the order of requests."""
        with self._lock:
            allocation_id = f"alloc-{self._next_allocation}"
            self._next_allocation += 1
            return allocation_id

    def reserve(self, request: AllocationRequest, allocation_id: str) -> Reservation:
        """Hold room for an allocation.

        Raises:
            DeviceUnavailableError: the device is not there to be asked.
            LimitExceededError: the hardware has room, a configured cap or reserve does not.
            OutOfMemoryError: the hardware has no room.
        """
        with self._lock:
            device = self._get(request.device_id)
            if device.info.state is not DeviceState.AVAILABLE:
                raise unavailable(device.info)
            if request.memory_type is MemoryType.EXTERNAL:
                count(request, device.ledger.external_bytes + device.ledger.allocated_bytes)
            else:
                admit(request, device.limits, self._headroom(device))
            return self.hold(request, allocation_id)

    def release(self, reservation: Reservation) -> None:
        """Roll back: every figure is as before ``reserve``."""
        with self._lock:
            self._get(reservation.request.device_id).ledger.release(reservation)
            self.version += 1

    def unused_allocation_id(self, allocation_id: str) -> None:
        """Note that nothing came of an id.

        It is not given out again: whoever sends many requests at once knows their ids by counting,
        whatever fails when.
        """
        with self._lock:
            self._remember_ending(allocation_id, "never_existed")

    def commit(self, reservation: Reservation, block: Block) -> Allocation:
        """Enter what the backend made. DeviceUnavailableError if the device went away meanwhile."""
        request = reservation.request
        with self._lock:
            device = self._get(request.device_id)
            if not device.ledger.holds(reservation):
                raise went_with_its_device(device.info)
            now = self._clock.now_ns()
            expires = None if request.lease_ns is None else now + request.lease_ns
            allocation = Allocation(reservation.allocation_id, request, block, now, expires)
            device.ledger.release(reservation)
            device.ledger.add(allocation)
            self.version += 1
            device.stale = True
            self._owning[allocation.allocation_id] = request.device_id
            return allocation

    def remove(self, allocation_id: str, *, ending: str = "already_freed") -> Allocation:
        """Strike an allocation out. AllocationNotFoundError if it is not live."""
        with self._lock:
            allocation = self.allocation(allocation_id)
            device = self._get(allocation.device_id)
            device.ledger.remove(allocation_id)
            self.version += 1
            device.stale = True
            del self._owning[allocation_id]
            if ending != "already_freed":
                self._remember_ending(allocation_id, ending)
            return allocation

    # ---- weights ----

    def missing_bytes(self, device_id: str, size_bytes: int) -> int:
        """Return how much would have to be freed for a size to fit, what is promised to others counted."""
        with self._lock:
            device = self._get(device_id)
            readings = device.readings or NO_READINGS
            return missing_bytes(size_bytes, readings, device.limits, books_of(device))

    def hold(self, request: AllocationRequest, name: str) -> Reservation:
        """Hold room that may not be there yet: whoever calls has decided what goes for it.

        DeviceUnavailableError if the device is not there to be asked.
        """
        with self._lock:
            device = self._get(request.device_id)
            if device.info.state is not DeviceState.AVAILABLE:
                raise unavailable(device.info)
            reservation = Reservation(name, request)
            device.ledger.reserve(reservation)
            self.version += 1
            return reservation

    def enter_weights(
        self, reservation: Reservation, handle: str, size_bytes: int, actual_bytes: int
    ) -> None:
        """Enter a model's weights, by what they turned out to take. DeviceUnavailableError if the device went away meanwhile."""
        with self._lock:
            device = self._get(reservation.request.device_id)
            if not device.ledger.holds(reservation):
                raise went_with_its_device(device.info)
            device.ledger.release(reservation)
            device.ledger.add_weights(handle, size_bytes, actual_bytes)
            device.stale = True
            self.version += 1

    def changes_alone(self) -> int | None:
        """Count the changes on all devices so far; None while room is held for more than one thing."""
        with self._lock:
            ledgers = [device.ledger for device in self._devices.values()]
            if sum(len(ledger.reservations) for ledger in ledgers) > 1:
                return None
            return sum(ledger.changes for ledger in ledgers)

    def last_look(self, device_id: str) -> int:
        """Return a mark by which ``strike_weights`` sees whether somebody looked."""
        with self._lock:
            device = self._get(device_id)
            return min(device.ledger.looks, default=device.looks_begun + 1) - 1

    def strike_weights(self, device_id: str, handle: str, last_look: int) -> None:
        """Strike a model's weights out; nothing happens if they went with their device.

        ``last_look`` is from before the device gave them up. Where somebody looked since, those readings may
        show the room already: it is not counted a second time, and if they do not, the next ones do.
        """
        with self._lock:
            device = self._get(device_id)
            drift_bytes = device.ledger.drift_bytes
            device.ledger.remove_weights(handle)
            if last_look != device.looks_begun:
                device.ledger.noted_bytes = device.ledger.taken_bytes - drift_bytes
            device.stale = True
            self.version += 1

    def enter_outside(self, device_id: str, handle: str, size_bytes: int) -> None:
        """Record a model that another process holds; it takes no room of ours.

        LimitExceededError where the sum could not be counted any more.
        """
        with self._lock:
            ledger = self._get(device_id).ledger
            request = AllocationRequest(device_id, size_bytes, MemoryType.EXTERNAL)
            count(request, ledger.external_bytes + ledger.allocated_bytes)
            ledger.add_outside(handle, size_bytes)
            self._get(device_id).stale = True
            self.version += 1

    def strike_outside(self, device_id: str, handle: str) -> None:
        """Strike a model that another process held out: what it gave back is in the next readings."""
        with self._lock:
            self._get(device_id).ledger.remove_outside(handle)
            self._get(device_id).stale = True
            self.version += 1

    def lose_part(self, device_id: str, names: frozenset[str]) -> Lost:
        """Strike out what did not come back to a device that is there again."""
        with self._lock:
            ledger = self._get(device_id).ledger
            lost = tuple(each for name, each in ledger.allocations.items() if name in names)
            for allocation in lost:
                self.remove(allocation.allocation_id, ending="device_lost")
            for handle in names & ledger.weights.keys():
                ledger.remove_weights(handle)
            self.mark_stale(device_id)
            return Lost(lost, self.on_lost(device_id, names))

    def content_bytes(self, device_id: str) -> int:
        """Return what allocations and models have on a device, as asked for."""
        with self._lock:
            ledger = self._get(device_id).ledger
            return ledger.allocated_bytes + ledger.model_bytes

    def model_bytes(self, device_id: str) -> int:
        """Return what models take on a device."""
        with self._lock:
            return self._get(device_id).ledger.model_bytes

    def weights(self, device_id: str) -> frozenset[str]:
        """Return the handles of all weights on a device."""
        with self._lock:
            return frozenset(self._get(device_id).ledger.weights)

    # ---- questions ----

    def allocation(self, allocation_id: str) -> Allocation:
        """Return a live allocation. AllocationNotFoundError, with the reason, if it is not live."""
        with self._lock:
            device_id = self._owning.get(allocation_id)
            if device_id is None:
                reason = self._ending(allocation_id)
                message = f"{allocation_id} is not live: {reason.replace('_', ' ')}"
                raise AllocationNotFoundError(message, allocation_id=allocation_id, reason=reason)
            return self._devices[device_id].ledger.allocations[allocation_id]

    def knows(self, allocation_id: str) -> bool:
        """Tell whether an allocation is live."""
        with self._lock:
            return allocation_id in self._owning

    def allocations(self, device_id: str | None = None) -> tuple[Allocation, ...]:
        """Return the live allocations of a device, or of all, in no particular order."""
        with self._lock:
            devices = self._devices.values() if device_id is None else (self._get(device_id),)
            return tuple(
                allocation for device in devices for allocation in device.ledger.allocations.values()
            )

    def usage(self, device_id: str, group_by: GroupBy) -> tuple[int, int, tuple[UsageGroup, ...]]:
        """Return a device's allocated bytes, their peak, and the groups."""
        with self._lock:
            ledger = self._get(device_id).ledger
            return ledger.allocated_bytes, ledger.peak_allocated_bytes, ledger.groups(group_by)

    def flows(self, device_id: str) -> tuple[OwnerFlow, ...]:
        """Return what each owner has and ever had on a device."""
        with self._lock:
            return self._get(device_id).ledger.flows()

    def made(self, device_id: str) -> tuple[int, int]:
        """Return how many allocations were ever made on a device, and their bytes."""
        with self._lock:
            ledger = self._get(device_id).ledger
            return ledger.made_count, ledger.made_bytes

    def never_freed(self, device_id: str, owner: str | None, purpose: str | None) -> bool:
        """Tell whether no allocation of an owner and purpose was ever freed on a device."""
        with self._lock:
            return self._get(device_id).ledger.never_freed(owner, purpose)

    def unleased(self, device_id: str) -> dict[tuple[str | None, str | None], tuple[int, int]]:
        """Return bytes and count by owner and purpose of what is neither kept for good nor leased."""
        with self._lock:
            held = self._get(device_id).ledger.unleased
            return {pair: (size, count) for pair, (size, count) in held.items()}

    def row(self, allocation: Allocation) -> AllocationRow:
        """Return an allocation as it is listed, with its ages as of now."""
        now, request = self._clock.now_ns(), allocation.request
        left = None
        if allocation.expires_ns is not None:
            left = max(0, allocation.expires_ns - now) // NS_PER_MS
        return AllocationRow(
            allocation_id=allocation.allocation_id,
            device_id=request.device_id,
            memory_type=request.memory_type,
            size_bytes=request.size_bytes,
            actual_bytes=allocation.block.actual_bytes,
            owner=request.owner,
            purpose=request.purpose,
            persistent=request.persistent,
            age_ms=(now - allocation.created_ns) // NS_PER_MS,
            lease_expires_in_ms=left,
            shared_memory=allocation.block.shared_memory,
        )

    def status(self, device_id: str) -> DeviceStatus:
        """Return where a device's memory is, by its last readings; the optional parts are left out."""
        with self._lock:
            device = self._get(device_id)
            ledger, readings = device.ledger, device.readings or NO_READINGS
            room = self._headroom(device)
            process = readings.process_used_bytes
            explained = readings.resident_bytes + readings.cached_bytes
            return DeviceStatus(
                device_id=device_id,
                kind=device.info.kind,
                name=device.info.name,
                state=device.info.state,
                state_reason=device.info.state_reason,
                total_bytes=readings.total_bytes,
                budget_bytes=room.budget_bytes,
                budget_source=room.budget_source,
                used_bytes=readings.used_bytes,
                process_used_bytes=process,
                allocated_bytes=ledger.allocated_bytes,
                external_bytes=ledger.external_bytes,
                cached_bytes=readings.cached_bytes,
                unattributed_bytes=None if process is None else max(0, process - explained),
                available_bytes=room.available_bytes,
                peak_allocated_bytes=ledger.peak_allocated_bytes,
                allocation_count=len(ledger.allocations),
                model_bytes=ledger.model_bytes,
                utilization_percentage=utilization_percentage(readings),
                pressure_level=self._level(device),
                allocations=None,
                usage=None,
                fragmentation=None,
            )

    # ---- inside ----

    def _ending(self, allocation_id: str) -> str:
        known = self._endings.get(allocation_id)
        if known is not None:
            return known
        number = allocation_id.removeprefix("alloc-")
        existed = (
            number != allocation_id
            and number.isdecimal()
            and number == str(int(number))
            and 0 < int(number) < self._next_allocation
        )
        return "already_freed" if existed else "never_existed"

    def _remember_ending(self, allocation_id: str, ending: str) -> None:
        self._endings[allocation_id] = ending
        if len(self._endings) > _ENDINGS_KEPT:
            self._endings.popitem(last=False)


def _no_models(_device_id: str, _names: frozenset[str] | None) -> tuple[str, ...]:
    """Return that no models went with a device: there are none."""
    return ()

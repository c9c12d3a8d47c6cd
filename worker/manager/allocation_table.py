"""The allocations: named, reserved, committed, leased, removed. Pure; under the manager's lock."""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

from protocol.results import AllocationRow
from protocol.vocabulary import DeviceState, MemoryType
from worker.core.atomic import GONE, Store, store_together
from worker.core.clock import NS_PER_MS, Clock
from worker.core.errors import AllocationNotFoundError, OutOfMemoryError
from worker.core.ids import Ids
from worker.core.records import Allocation, AllocationRequest, Block, Reservation
from worker.manager.devices import Device, DeviceTable, unavailable, went_with_its_device
from worker.manager.due_table import DueTable
from worker.manager.pressure_table import PressureTable
from worker.policy.admission import admit, count

_ENDINGS_KEPT = 1024
"""Allocations that ended otherwise than by being freed, and are remembered for the error that names why."""

_MAKING_MAX = 8192
"""Ids whose requests may be under way: more than are ever in flight. Older ones were of requests that never began."""

_FREED_AGAIN_NS = 1_000_000_000
"""What could not be freed when its lease ended is tried again after this."""


class AllocationTable:
    """Every allocation. A change is reserved, then made by a backend, then committed or released."""

    def __init__(
        self, devices: DeviceTable, pressure: PressureTable, due: DueTable, clock: Clock, ids: Ids
    ) -> None:
        self._devices = devices
        self._pressure = pressure
        self._due = due
        self._clock = clock
        self._ids = ids
        self._lock = devices.lock
        # All mutable state: the device id of each live allocation, the next number, and how others ended.
        self._owning: dict[str, str] = {}
        self._next = 1
        self._making = OrderedDict[str, None]()
        self._endings: OrderedDict[str, str] = OrderedDict()

    # ---- one transaction ----

    def new_id(self) -> str:
        """Return the next id. Named when a request is admitted, so that ids follow the order of requests."""
        self._lock.acquire()
        try:
            allocation_id = self._ids.make("alloc", self._next)
            self._making[allocation_id] = None
            if len(self._making) > _MAKING_MAX:
                self._making.popitem(last=False)
            self._next += 1
            return allocation_id
        finally:
            self._lock.release()

    def unused_id(self, allocation_id: str) -> None:
        """Note that nothing came of an id.

        It is not given out again: whoever sends many requests at once knows their ids by counting,
        whatever fails when.
        """
        with self._lock:
            store_together(self._ending_otherwise(allocation_id, "never_existed"))
            self._making.pop(allocation_id, None)

    def reserve(self, request: AllocationRequest, allocation_id: str) -> Reservation:
        """Hold headroom for an allocation.

        Raises:
            DeviceUnavailableError: the device is not there to be asked.
            LimitExceededError: the hardware has headroom, a configured cap or reserve does not.
            OutOfMemoryError: the hardware has no headroom.
        """
        with self._lock:
            device = self._devices.get(request.device_id)
            if device.info.state is not DeviceState.AVAILABLE:
                raise unavailable(device.info)
            if request.memory_type is MemoryType.EXTERNAL:
                count(request, device.ledger.external_bytes + device.ledger.allocated_bytes)
            else:
                try:
                    admit(request, device.limits, self._pressure.headroom_of(device))
                except OutOfMemoryError as error:
                    error.retryable = self._pressure.can_ever_fit(request)
                    raise
            return self.hold(request, allocation_id)

    def hold(self, request: AllocationRequest, name: str) -> Reservation:
        """Hold headroom that may not be there yet: whoever calls has decided what goes for it.

        DeviceUnavailableError if the device is not there to be asked.
        """
        with self._lock:
            device = self._devices.get(request.device_id)
            if device.info.state is not DeviceState.AVAILABLE:
                raise unavailable(device.info)
            reservation = Reservation(name, request)
            store_together(
                [
                    *device.ledger.reserving(reservation),
                    *self._devices.changing(device, stale=device.stale),
                ]
            )
            return reservation

    def release(self, reservation: Reservation) -> None:
        """Roll back: every figure is as before ``reserve``."""
        with self._lock:
            device = self._devices.get(reservation.request.device_id)
            store_together(
                [
                    *device.ledger.releasing(reservation),
                    *self._devices.changing(device, stale=device.stale),
                ]
            )

    def commit(self, reservation: Reservation, block: Block) -> Allocation:
        """Add what the backend made. DeviceUnavailableError if the device went away meanwhile."""
        request = reservation.request
        with self._lock:
            device = self._devices.get(request.device_id)
            if not device.ledger.holds(reservation):
                raise went_with_its_device(device.info)
            now = self._clock.now_ns()
            expires = None if request.lease_ns is None else now + request.lease_ns
            allocation = Allocation(reservation.allocation_id, request, block, now, expires)
            self._add(device, allocation, expires, device.ledger.releasing(reservation))
            self._making.pop(reservation.allocation_id, None)
            return allocation

    def renew(self, allocation_id: str, lease_ns: int) -> Allocation:
        """Have an allocation's lease end ``lease_ns`` from now, also where it had none.

        AllocationNotFoundError if it is not live.
        """
        with self._lock:
            before = self.get(allocation_id)
            request: AllocationRequest = replace(before.request, lease_ns=lease_ns)
            expires = self._clock.now_ns() + lease_ns
            renewed: Allocation = replace(before, request=request, expires_ns=expires)
            device = self._devices.get(renewed.device_id)
            stores = [*device.ledger.replacing(renewed), *self._devices.changing(device, stale=device.stale)]
            self._store(renewed, stores, expires, before.expires_ns)
            return renewed

    def remove(self, allocation_id: str, *, ending: str = "already_freed") -> Allocation:
        """Remove an allocation. AllocationNotFoundError if it is not live."""
        with self._lock:
            allocation = self.get(allocation_id)
            device = self._devices.get(allocation.device_id)
            stores = [
                *device.ledger.removing(allocation),
                *self._devices.changing(device),
                (self._owning, allocation_id, GONE),
            ]
            if ending != "already_freed":
                stores += self._ending_otherwise(allocation_id, ending)
            store_together(stores)
            if allocation.expires_ns is not None:
                self._set_due(allocation.device_id, allocation_id, None)
            return allocation

    def put_back(self, allocation: Allocation) -> None:
        """Add an allocation again that could not be freed after all: every figure is as before ``remove``."""
        with self._lock:
            if allocation.allocation_id in self._owning:
                return
            again_ns = allocation.expires_ns
            if again_ns is not None:
                again_ns = max(again_ns, self._clock.now_ns() + _FREED_AGAIN_NS)
            self._add(self._devices.get(allocation.device_id), allocation, again_ns, anew=False)

    def remove_expired(self, allocation_id: str) -> Allocation | None:
        """Remove an allocation whose lease has ended; None for one that is gone, or was renewed meanwhile."""
        with self._lock:
            device_id = self._owning.get(allocation_id)
            expires = None if device_id is None else self.get(allocation_id).expires_ns
            if expires is None or expires > self._clock.now_ns():
                return None
            return self.remove(allocation_id, ending="lease_expired")

    # ---- questions ----

    def get(self, allocation_id: str) -> Allocation:
        """Return a live allocation. AllocationNotFoundError, with the reason, if it is not live."""
        device_id = self._owning.get(allocation_id)
        if device_id is not None:
            found = self._devices.get(device_id).ledger.allocations.get(allocation_id)
            if found is not None:  # one value: it needs no lock
                return found
        with self._lock:
            device_id = self._owning.get(allocation_id)
            if device_id is None:
                reason = self._ending(allocation_id)
                message = f"{allocation_id} is not live: {reason.replace('_', ' ')}"
                raise AllocationNotFoundError(message, allocation_id=allocation_id, reason=reason)
            return self._devices.get(device_id).ledger.allocations[allocation_id]

    def knows(self, allocation_id: str) -> bool:
        """Tell whether an allocation is live."""
        return allocation_id in self._owning

    def making(self, allocation_id: str) -> bool:
        """Tell whether an allocation of that id is being made."""
        with self._lock:
            return allocation_id in self._making

    def all(self, device_id: str | None = None) -> tuple[Allocation, ...]:
        """Return the live allocations of a device, or of all, in no particular order."""
        with self._lock:
            devices = self._devices.all() if device_id is None else (self._devices.get(device_id),)
            return tuple(
                allocation for device in devices for allocation in device.ledger.allocations.values()
            )

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

    # ---- inside ----

    def _ending(self, allocation_id: str) -> str:
        known = self._endings.get(allocation_id)
        if known is not None:
            return known
        if not allocation_id.startswith("alloc-"):
            return "never_existed"
        if self._ids.is_of_another(allocation_id):
            return "another_worker_made_it"
        return "already_freed" if 0 < (self._ids.number(allocation_id) or 0) < self._next else "never_existed"

    def _ending_otherwise(self, allocation_id: str, ending: str) -> list[Store]:
        stores: list[Store] = [(self._endings, allocation_id, ending)]
        if len(self._endings) >= _ENDINGS_KEPT and allocation_id not in self._endings:
            stores.append((self._endings, next(iter(self._endings)), GONE))
        return stores

    def _add(
        self,
        device: Device,
        allocation: Allocation,
        due_ns: int | None,
        released: Iterable[Store] = (),
        *,
        anew: bool = True,
    ) -> None:
        stores = [
            *released,
            *device.ledger.adding(allocation, anew=anew),
            *self._devices.changing(device),
            (self._owning, allocation.allocation_id, allocation.device_id),
        ]
        self._store(allocation, stores, due_ns, None)

    def _store(
        self, allocation: Allocation, stores: list[Store], due_ns: int | None, due_before_ns: int | None
    ) -> None:
        """Store changes along with when a lease ends, or neither."""
        device_id, allocation_id = allocation.device_id, allocation.allocation_id
        try:
            if due_ns is not None:
                self._due.set_lease(device_id, allocation_id, due_ns)
            store_together(stores)
        except BaseException:
            if due_ns is not None:
                self._set_due(device_id, allocation_id, due_before_ns)
            raise

    def _set_due(self, device_id: str, allocation_id: str, due_ns: int | None) -> None:
        """Set when a lease ends after it was decided; where memory is short, it is looked at in vain or late."""
        try:  # noqa: SIM105 - suppress() needs memory itself
            self._due.set_lease(device_id, allocation_id, due_ns)
        except MemoryError:
            pass

"""Allocating and freeing: what to try when a device is full, and what follows from a change."""

from contextlib import suppress
from typing import TYPE_CHECKING

from protocol.results import AllocateResult, DeallocateResult
from protocol.vocabulary import DeviceState, MemoryType
from worker.core.cancellation import CancelToken
from worker.core.errors import (
    AllocationNotFoundError,
    InvalidRequestError,
    LimitExceededError,
    NoFileRoomError,
    OutOfMemoryError,
)
from worker.core.events import AllocationExpired
from worker.core.records import Allocation, AllocationRequest
from worker.core.shortages import patiently
from worker.interface.lazy_models import LazyModels
from worker.manager.pressure_table import Observation
from worker.watch.device_monitor import READINGS_MAX_AGE_MS, DeviceMonitor
from worker.wiring import Core
from worker.workers.allocation import AllocationWorker
from worker.workers.gone import Gone, name_released
from worker.workers.restart import CheckUnused, RestartWorker

if TYPE_CHECKING:
    from worker.manager.plan_table import Plan

_EXACT_FROM_BYTES = 2**20
"""Allocations from this size are admitted by readings taken now; smaller ones cannot move the headroom much."""


class Allocations:
    """Every allocation of the worker, whichever device it is on."""

    def __init__(
        self,
        core: Core,
        monitor: DeviceMonitor,
        worker: AllocationWorker,
        restarts: RestartWorker,
        models: LazyModels,
        check_unused: CheckUnused,
    ) -> None:
        self._manager = core.manager
        self._backends = core.backends
        self._monitor = monitor
        self._worker = worker
        self._restarts = restarts
        self._models = models
        self._check_unused = check_unused
        self._publish = core.events.publish
        table = core.manager.allocations
        self.new_id, self.unused_id = table.new_id, table.unused_id
        self.knows, self.renew, self.making = table.knows, table.renew, table.making

    def place_of(self, allocation_id: str) -> tuple[str, int]:
        """Return an allocation's device and bytes. AllocationNotFoundError if it is not live."""
        allocation = self._manager.allocations.get(allocation_id)
        return allocation.device_id, allocation.size_bytes

    def allocate(
        self, allocation_id: str, request: AllocationRequest, token: CancelToken, *, make_room: bool = False,
        plan_id: str | None = None,
    ) -> AllocateResult:  # fmt: skip
        """Allocate.

        1. Small requests are admitted by recent readings, larger ones by readings taken now.
        2. Out of memory: caches are given up. If that, or newer readings, can help, it is tried once more.
        3. Still, headroom may be made, and the device's process keeps it in pieces: that process is replaced.
        4. Still, or over a limit, and models may go: enough of them are unloaded, and it is tried a last
           time in the headroom that was held meanwhile.
        A plan that is taken up is 4 at once, and what it said goes.
        """
        device_id, gone = request.device_id, Gone()
        if plan_id is not None and request.memory_type is MemoryType.EXTERNAL:
            message = "a record of what the host holds takes no headroom, so there is no plan for it"
            raise InvalidRequestError.at("data.plan_id", message)
        self._monitor.wait_until_known((device_id,), token)
        try:
            with self._monitor.watching_for_loss():
                if plan_id is not None:
                    plan = self._models.get().plan_for(plan_id, device_id, size_bytes=request.size_bytes)
                    allocation = self._allocate_in_held(allocation_id, request, token, gone, plan)
                else:
                    allocation = self._allocate_without_plan(
                        allocation_id, request, token, gone, make_room=make_room
                    )
            seen = self._after_change(device_id, request.size_bytes)
            return AllocateResult(
                allocation_id=allocation.allocation_id,
                device_id=device_id,
                memory_type=request.memory_type,
                size_bytes=request.size_bytes,
                actual_bytes=allocation.block.actual_bytes,
                shared_memory=allocation.block.shared_memory,
                available_bytes=seen.headroom.available_bytes,
                models_unloaded=tuple(gone.unloaded),
                released=tuple(gone.released),
            )
        except BaseException:  # such as short memory: nothing that failed leaves a row
            if self.knows(allocation_id):
                with suppress(AllocationNotFoundError):
                    patiently(lambda: self._worker.free(allocation_id))
            raise

    def _allocate_without_plan(
        self, allocation_id: str, request: AllocationRequest, token: CancelToken, gone: Gone,
        *, make_room: bool,
    ) -> Allocation:  # fmt: skip
        device_id, exact = request.device_id, request.size_bytes >= _EXACT_FROM_BYTES
        self._monitor.refresh((device_id,), max_age_ms=READINGS_MAX_AGE_MS, exact=exact)  # 1
        try:
            return self._allocate_as_it_is(allocation_id, request, token, exact=exact)
        except (OutOfMemoryError, LimitExceededError) as error:
            elsewhere = request.memory_type is MemoryType.EXTERNAL or isinstance(error, NoFileRoomError)
            if elsewhere or self._is_gone(device_id):
                raise
            if not make_room:
                error.details["evictable_bytes"] = self._evictable_bytes(device_id)
                raise
            return self._allocate_making_headroom(allocation_id, request, token, gone)

    def _allocate_as_it_is(
        self, allocation_id: str, request: AllocationRequest, token: CancelToken, *, exact: bool
    ) -> Allocation:
        """Allocate in what is free, or becomes so when caches are given up."""
        device_id = request.device_id
        try:
            return self._worker.allocate(allocation_id, request, token)
        except OutOfMemoryError:  # 2
            if self._is_gone(device_id) or (not self._backends[device_id].trim(device_id) and exact):
                raise
            self._monitor.refresh((device_id,), max_age_ms=0)
            return self._worker.allocate(allocation_id, request, token)

    def _allocate_making_headroom(
        self,
        allocation_id: str,
        request: AllocationRequest,
        token: CancelToken,
        gone: Gone,
    ) -> Allocation:
        """Allocate in headroom that a restart or models made; free memory in pieces is joined first."""
        if self._restarts.restart_for(request, token, self._check_unused):  # 3
            try:
                return self._worker.allocate(allocation_id, request, token)
            except OutOfMemoryError:
                if self._is_gone(request.device_id):
                    raise
        return self._allocate_in_held(allocation_id, request, token, gone)

    def _allocate_in_held(
        self, allocation_id: str, request: AllocationRequest, token: CancelToken, gone: Gone,
        plan: "Plan | None" = None,
    ) -> Allocation:  # fmt: skip
        """Allocate in headroom that models made, by this plan or one made now. If that fails, the models return."""
        device_id, models = request.device_id, self._models.get()
        backend = self._backends[device_id]
        backend.check(request)  # before anything goes for its sake
        try:
            reservation = models.reserve_making_headroom(allocation_id, request, token, gone, plan)  # 4
            try:
                if self._tells_pieces(device_id):
                    largest = backend.readings(device_id).largest_block_bytes
                    if largest is not None and largest < request.size_bytes:
                        backend.defragment(device_id)
            except BaseException:
                self._manager.allocations.release(reservation)
                raise
            return self._worker.allocate(allocation_id, request, token, reservation)
        except BaseException as error:
            models.bring_back(gone.unloaded, device_id, error)
            name_released(error, gone.released)
            raise

    def deallocate(self, allocation_id: str, *, force: bool) -> DeallocateResult:
        """Free one allocation."""
        allocation, returned = self._manager.allocations.get(allocation_id), None
        try:
            with self._monitor.watching_for_loss():
                returned = self._worker.free(allocation_id, force=force)[1]
        except MemoryError:
            if self.knows(allocation_id):
                raise  # else it is done, and only its telling was short of memory

        def freed() -> DeallocateResult:
            seen = self._after_change(allocation.device_id, allocation.size_bytes)
            return DeallocateResult(
                allocation_id=allocation_id,
                device_id=allocation.device_id,
                freed_bytes=allocation.size_bytes,
                returned_bytes=returned,
                available_bytes=seen.headroom.available_bytes,
            )

        return patiently(freed)

    def expire(self, allocation_id: str) -> None:
        """Free an allocation whose lease has ended, and tell of it; one that went or was renewed meanwhile is let be."""
        with self._monitor.watching_for_loss():
            expired = self._worker.expire(allocation_id)
        if expired is None:
            return
        self._publish(AllocationExpired(expired))
        self._monitor.observe((expired.device_id,))

    def free_all(self) -> None:
        """Free everything: the worker ends."""
        for allocation in self._manager.allocations.all():
            with suppress(AllocationNotFoundError):  # it went by itself meanwhile
                self._worker.free(allocation.allocation_id)

    # ---- inside ----

    def _tells_pieces(self, device_id: str) -> bool:
        """Tell whether a device says in which pieces its memory lies: one that does, does always."""
        seen = self._manager.samples.latest(device_id)
        return seen is None or seen.largest_block_bytes is not None

    def _is_gone(self, device_id: str) -> bool:
        return self._manager.devices.info(device_id).state is not DeviceState.AVAILABLE

    def _evictable_bytes(self, device_id: str) -> int:
        built = self._models.built
        return 0 if built is None else built.evictable_bytes(device_id)

    def _after_change(self, device_id: str, size_bytes: int) -> Observation:
        """Observe a change; a large one with readings of its own, for it took time and others go on."""
        if size_bytes >= _EXACT_FROM_BYTES:
            self._monitor.refresh((device_id,), max_age_ms=0)
        return self._monitor.observe_one(device_id)

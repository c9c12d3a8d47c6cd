"""Allocating and freeing: reserve in the manager, do at the device, commit, or roll back."""

from protocol.record import Record
from protocol.results import Expiration
from protocol.vocabulary import MemoryType
from worker.core.cancellation import CancelToken
from worker.core.errors import DeviceUnavailableError, InvalidRequestError, OutOfMemoryError
from worker.core.log import log
from worker.core.records import Allocation, AllocationRequest, Block, Reservation
from worker.core.shortages import patiently
from worker.wiring import Core


class Unfinished(Record):
    """A block that is made, and not yet committed."""

    reservation: Reservation
    block: Block


class AllocationWorker:
    """One allocation or free at a time, each all or nothing."""

    def __init__(self, core: Core) -> None:
        self._manager = core.manager
        self._allocations = core.manager.allocations
        self._backends = core.backends
        self._history = core.history

    def allocate(
        self,
        allocation_id: str,
        request: AllocationRequest,
        token: CancelToken,
        held: Reservation | None = None,
    ) -> Allocation:
        """Make an allocation. Errors: those of ``AllocationTable.reserve`` and of the backend."""
        return self.finish(self.begin(allocation_id, request, token, held))

    def begin(
        self,
        allocation_id: str,
        request: AllocationRequest,
        token: CancelToken,
        held: Reservation | None = None,
    ) -> Unfinished:
        """Reserve, unless headroom is held already, and make the block: it is not seen before ``finish``.

        Then ``finish`` or ``undo``. Where it fails, what was held is released, too.
        """
        external = request.memory_type is MemoryType.EXTERNAL
        backend = self._backends[request.device_id]
        try:
            if not external:
                backend.check(request)
            reservation = self._allocations.reserve(request, allocation_id) if held is None else held
        except BaseException:
            if held is not None:
                self._allocations.release(held)
            raise
        try:
            if external:
                return Unfinished(reservation, Block(request.size_bytes))
            block = backend.allocate(allocation_id, request, token)
            try:
                return Unfinished(reservation, block)
            except BaseException:
                backend.free(allocation_id)
                raise
        except BaseException as error:
            self._allocations.release(reservation)
            if isinstance(error, OutOfMemoryError):
                self._complete_details(error, request)
            raise

    def finish(self, made: Unfinished) -> Allocation:
        """Commit it to the ledger. DeviceUnavailableError if its device went away, and it is undone."""
        try:
            return self._allocations.commit(made.reservation, made.block)
        except BaseException:
            self.undo(made)
            raise

    def undo(self, made: Unfinished) -> None:
        """Take the block and the reservation back: every figure is as before ``begin``."""
        request = made.reservation.request
        try:
            if request.memory_type is not MemoryType.EXTERNAL:
                self._backends[request.device_id].free(made.reservation.allocation_id)
        finally:
            self._allocations.release(made.reservation)

    def free(self, allocation_id: str, *, force: bool = True) -> tuple[Allocation, int | None]:
        """Free an allocation; returns it and the bytes that went back to the system, where measured.

        AllocationNotFoundError if it is not live, InvalidRequestError if it is persistent and not forced.
        """
        allocation = self._allocations.get(allocation_id)
        if allocation.request.persistent and not force:
            message = f"{allocation_id} is persistent; send force: true to free it"
            raise InvalidRequestError.at("data.force", message)
        try:
            self._allocations.remove(allocation_id)
            return allocation, self._free_removed(allocation)
        except MemoryError:
            if self._allocations.knows(allocation_id):
                raise
            return patiently(lambda: (allocation, None))  # it is freed: only the telling was short of memory

    def expire(self, allocation_id: str) -> Expiration | None:
        """Free an allocation whose lease has ended, and record it; None where it went or was renewed meanwhile."""
        allocation = self._allocations.remove_expired(allocation_id)
        if allocation is None:
            return None
        returned = self._free_removed(allocation)
        expiration = Expiration(
            allocation_id=allocation_id,
            device_id=allocation.device_id,
            owner=allocation.request.owner,
            ms_ago=0,
            freed_bytes=allocation.size_bytes,
            returned_bytes=returned,
        )
        self._history.record_expiration(expiration)
        return expiration

    def _free_removed(self, allocation: Allocation) -> int | None:
        """Free the block of a row that was removed; where that fails and it is still there, so is the row."""
        if allocation.external:
            return None
        allocation_id, backend = allocation.allocation_id, self._backends[allocation.device_id]
        try:
            return backend.free(allocation_id)
        except DeviceUnavailableError:
            raise  # it went with its device
        except BaseException as error:
            if allocation_id in patiently(backend.live):
                patiently(lambda: self._allocations.put_back(allocation))
                raise
            log("error", "freeing failed, and it is gone", allocation_id=allocation_id, error=repr(error))
            return None

    def _complete_details(self, error: OutOfMemoryError, request: AllocationRequest) -> None:
        headroom = self._manager.pressure.headroom(request.device_id)
        complete = {
            "device_id": request.device_id,
            "requested_bytes": request.size_bytes,
            "available_bytes": headroom.available_bytes,
            "evictable_bytes": 0,
        }
        error.details = complete | {**error.details, "requested_bytes": request.size_bytes}
        error.retryable = error.retryable and self._manager.pressure.can_ever_fit(request)

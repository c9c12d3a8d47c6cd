"""Allocating and freeing: reserve in the manager, do at the device, commit, or roll back."""

from collections.abc import Callable, Mapping

from protocol.record import Record
from protocol.results import Expiration
from protocol.vocabulary import MemoryType
from worker.backends.base import DeviceBackend
from worker.core.cancellation import CancelToken
from worker.core.errors import InvalidRequestError, OutOfMemoryError
from worker.core.records import Allocation, AllocationRequest, Block, Reservation
from worker.manager.manager_memory import MemoryManager
from worker.metrics.history import History

OnLease = Callable[[Allocation, int], None]
"""Called with an allocation and the clock's nanoseconds at which its lease runs out."""


class Unfinished(Record):
    """A block that is made, and not yet entered."""

    reservation: Reservation
    block: Block


class AllocationWorker:
    """One allocation or free at a time, each all or nothing."""

    def __init__(
        self,
        manager: MemoryManager,
        backends: Mapping[str, DeviceBackend],
        history: History,
        on_lease: OnLease,
    ) -> None:
        self._manager = manager
        self._backends = backends
        self._history = history
        self._on_lease = on_lease

    def allocate(
        self,
        allocation_id: str,
        request: AllocationRequest,
        token: CancelToken,
        held: Reservation | None = None,
    ) -> Allocation:
        """Make an allocation. Errors: those of ``MemoryManager.reserve`` and of the backend."""
        return self.finish(self.begin(allocation_id, request, token, held))

    def begin(
        self,
        allocation_id: str,
        request: AllocationRequest,
        token: CancelToken,
        held: Reservation | None = None,
    ) -> Unfinished:
        """Reserve, unless room is held already, and make the block: nobody sees it before ``finish``.

        Then ``finish`` or ``undo``.
        """
        external = request.memory_type is MemoryType.EXTERNAL
        backend = self._backends[request.device_id]
        if not external:
            backend.check(request)
        reservation = self._manager.reserve(request, allocation_id) if held is None else held
        try:
            if external:
                return Unfinished(reservation, Block(request.size_bytes))
            return Unfinished(reservation, backend.allocate(allocation_id, request, token))
        except BaseException as error:
            self._manager.release(reservation)
            if isinstance(error, OutOfMemoryError):
                self._complete_details(error, request)
            raise

    def finish(self, made: Unfinished) -> Allocation:
        """Enter it in the ledger. DeviceUnavailableError if its device went away, and it is undone."""
        try:
            allocation = self._manager.commit(made.reservation, made.block)
        except BaseException:
            self.undo(made)
            raise
        if allocation.expires_ns is not None:
            self._on_lease(allocation, allocation.expires_ns)
        return allocation

    def undo(self, made: Unfinished) -> None:
        """Take the block and the reservation back: every figure is as before ``begin``."""
        request = made.reservation.request
        try:
            if request.memory_type is not MemoryType.EXTERNAL:
                self._backends[request.device_id].free(made.reservation.allocation_id)
        finally:
            self._manager.release(made.reservation)

    def free(self, allocation_id: str, *, force: bool = True) -> tuple[Allocation, int | None]:
        """Free an allocation; returns it and the bytes that went back to the system, where measured.

        AllocationNotFoundError if it is not live, InvalidRequestError if it is persistent and not forced.
        """
        allocation = self._manager.allocation(allocation_id)
        if allocation.request.persistent and not force:
            message = f"{allocation_id} is persistent; send force: true to free it"
            raise InvalidRequestError.at("data.force", message)
        self._manager.remove(allocation_id)
        return allocation, self._free_block(allocation)

    def expire(self, allocation_id: str) -> Expiration:
        """Free an allocation whose lease ran out, and record it."""
        allocation = self._manager.remove(allocation_id, ending="lease_expired")
        returned = self._free_block(allocation)
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

    def _free_block(self, allocation: Allocation) -> int | None:
        if allocation.external:
            return None
        return self._backends[allocation.device_id].free(allocation.allocation_id)

    def _complete_details(self, error: OutOfMemoryError, request: AllocationRequest) -> None:
        room = self._manager.headroom(request.device_id)
        complete = {
            "device_id": request.device_id,
            "requested_bytes": request.size_bytes,
            "available_bytes": room.available_bytes,
            "evictable_bytes": 0,
        }
        error.details = complete | {**error.details, "requested_bytes": request.size_bytes}

"""What is in an allocation, for code of this process: a copy of its bytes, and a new one that is made of some."""

from protocol.results import AllocateResult
from protocol.vocabulary import Initialize, MemoryType
from worker.backends.base import COPY_CHUNK_BYTES
from worker.backends.block_copy import copy_out
from worker.backends.pieces import no_progress
from worker.core.cancellation import CancelToken
from worker.core.errors import UnsupportedError
from worker.core.records import HOST, AllocationRequest
from worker.interface.allocations import Allocations
from worker.wiring import Core


class Contents:
    """Copies into and out of allocations."""

    def __init__(self, core: Core, allocations: Allocations) -> None:
        self._rows = core.manager.allocations
        self._backends = core.backends
        self._allocations = allocations

    def read(self, allocation_id: str, token: CancelToken) -> bytearray:
        """Return a copy of an allocation's bytes. AllocationNotFoundError; UnsupportedError where a host holds it."""
        allocation = self._rows.get(allocation_id)
        if allocation.external:
            message = f"{allocation_id} is held by the host: the worker has only the record of it"
            raise UnsupportedError(message, allocation_id=allocation_id, memory_type=MemoryType.EXTERNAL)
        copy = bytearray(allocation.size_bytes)
        with memoryview(copy) as view:
            copy_out(self._backends[allocation.device_id], allocation_id, view, token, no_progress)
        return copy

    def lend(
        self, data: bytes | bytearray, purpose: str, lease_ns: int, token: CancelToken
    ) -> AllocateResult:
        """Make a shared allocation with these bytes, which is freed when its lease ends. Errors as of allocating."""
        request = AllocationRequest(
            device_id=HOST,
            size_bytes=max(1, len(data)),
            memory_type=MemoryType.SHARED,
            initialize=Initialize.NONE,
            purpose=purpose,
            lease_ns=lease_ns,
            overwritten=True,
        )
        allocation_id = self._allocations.new_id()
        try:
            made = self._allocations.allocate(allocation_id, request, token)
        except BaseException:
            self._allocations.unused_id(allocation_id)
            raise
        try:
            with memoryview(data) as view:
                for offset in range(0, len(data), COPY_CHUNK_BYTES):
                    piece = view[offset : offset + COPY_CHUNK_BYTES]
                    self._backends[HOST].write(allocation_id, offset, piece, token)
        except BaseException:
            self._allocations.deallocate(allocation_id, force=True)
            raise
        return made

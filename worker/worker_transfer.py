"""Copying or moving an allocation: reserve the destination, copy in chunks, verify, commit, or roll back."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

from protocol.results import TransferResult
from protocol.vocabulary import Initialize, MemoryType, TransferState, TransferType
from worker.backends.base import COPY_CHUNK_BYTES, DeviceBackend
from worker.backends.block_copy import copy_block
from worker.books.transfer_book import TransferBook
from worker.cancellation import CancelToken
from worker.clock import NS_PER_S, NS_PER_US, Clock
from worker.errors import (
    CancelledError,
    ChecksumMismatchError,
    DeadlineExceededError,
    UnsupportedError,
    WorkerError,
)
from worker.manager_memory import MemoryManager
from worker.records import Allocation, AllocationRequest
from worker.worker_allocation import AllocationWorker

Report = Callable[[int, int], None]
"""Called with (completed bytes, total bytes) as the copy goes on."""


class TransferWorker:
    """Transfers between any two devices, by way of the worker's own memory where they share none."""

    def __init__(
        self,
        manager: MemoryManager,
        backends: Mapping[str, DeviceBackend],
        allocations: AllocationWorker,
        clock: Clock,
    ) -> None:
        self._manager = manager
        self._backends = backends
        self._allocations = allocations
        self._clock = clock
        self._book = TransferBook()

    def open(self, source_id: str, destination_device_id: str, memory_type: MemoryType) -> TransferResult:
        """Enter a transfer, to be performed. AllocationNotFoundError or UnsupportedError if it can't be."""
        source = self._manager.allocation(source_id)
        if memory_type is MemoryType.EXTERNAL:
            message = "external memory is held by the host: the worker has nothing to copy into"
            raise UnsupportedError(message, memory_type=memory_type)
        if source.external:
            message = f"{source_id} is held by the host: the worker has only the record of it"
            raise UnsupportedError(message, allocation_id=source_id, memory_type=MemoryType.EXTERNAL)
        return self._book.open(
            source_allocation_id=source_id,
            source_device_id=source.device_id,
            destination_device_id=destination_device_id,
            size_bytes=source.size_bytes,
        )

    def get(self, transfer_id: str) -> TransferResult:
        """Return a transfer as it stands. InvalidRequestError if there is none."""
        return self._book.get(transfer_id)

    def perform(
        self,
        transfer_id: str,
        kind: TransferType,
        memory_type: MemoryType,
        token: CancelToken,
        report: Report,
        *,
        verify: bool,
    ) -> TransferResult:
        """Carry a transfer out. On any failure both ledgers are as before, and the record has the error."""
        started = self._clock.now_ns()
        record = self._book.update(transfer_id, state=TransferState.RUNNING)
        try:
            token.check()
            source = self._manager.allocation(record.source_allocation_id)
            destination = self._allocate(source, record, memory_type, kind, token)
            try:
                checksum = self._copy(source, destination, transfer_id, token, report, verify=verify)
                if kind is TransferType.MOVE:
                    self._allocations.free(source.allocation_id)
            except BaseException:
                if self._manager.knows(destination.allocation_id):  # else it went with its device
                    self._allocations.free(destination.allocation_id)
                raise
        except WorkerError as error:
            stopped = isinstance(error, CancelledError | DeadlineExceededError)
            state = TransferState.CANCELLED if stopped else TransferState.FAILED
            self._book.update(transfer_id, state=state, error=error.body())
            error.details = {"transfer_id": transfer_id, **error.details}
            raise
        elapsed = self._clock.now_ns() - started
        return self._book.update(
            transfer_id,
            state=TransferState.COMPLETED,
            destination_allocation_id=destination.allocation_id,
            completed_bytes=record.size_bytes,
            duration_us=elapsed // NS_PER_US,
            bytes_per_second=record.size_bytes * NS_PER_S // elapsed if elapsed else None,
            checksum=checksum,
            shared_memory=destination.block.shared_memory,
        )

    def abandon(self, transfer_id: str, error: WorkerError) -> None:
        """Note that a queued transfer will not be performed."""
        self._book.update(transfer_id, state=TransferState.CANCELLED, error=error.body())

    def _allocate(
        self,
        source: Allocation,
        record: TransferResult,
        memory_type: MemoryType,
        kind: TransferType,
        token: CancelToken,
    ) -> Allocation:
        """Make the destination: it inherits everything but its place, and a copy no persistence."""
        lease = None
        if source.expires_ns is not None:
            lease = max(1, source.expires_ns - self._clock.now_ns())
        request: AllocationRequest = replace(
            source.request,
            device_id=record.destination_device_id,
            memory_type=memory_type,
            initialize=Initialize.NONE,
            overwritten=True,
            persistent=source.request.persistent and kind is TransferType.MOVE,
            lease_ns=lease,
        )
        return self._allocations.allocate(request, token)

    def _copy(
        self,
        source: Allocation,
        destination: Allocation,
        transfer_id: str,
        token: CancelToken,
        report: Report,
        *,
        verify: bool,
    ) -> str | None:
        size = source.size_bytes

        def done(completed: int) -> None:
            self._book.update(transfer_id, completed_bytes=completed)
            report(completed, size)

        copy_block(
            self._backends[source.device_id],
            source.allocation_id,
            self._backends[destination.device_id],
            destination.allocation_id,
            size,
            token,
            done,
        )
        if not verify:
            return None
        expected = self._digest(source, token)
        found = self._digest(destination, token)
        if found != expected:
            message = f"the copy has {found} where the source has {expected}; it was discarded"
            raise ChecksumMismatchError(message, expected=expected, found=found)
        return expected

    def _digest(self, allocation: Allocation, token: CancelToken) -> str:
        """Read an allocation back, whole, and return its SHA-256."""
        backend, digest = self._backends[allocation.device_id], hashlib.sha256()
        chunk = memoryview(bytearray(min(allocation.size_bytes, COPY_CHUNK_BYTES)))
        for offset in range(0, allocation.size_bytes, COPY_CHUNK_BYTES):
            piece = chunk[: min(COPY_CHUNK_BYTES, allocation.size_bytes - offset)]
            backend.read(allocation.allocation_id, offset, piece, token)
            digest.update(piece)
        return f"sha256:{digest.hexdigest()}"

"""Copying or moving an allocation: reserve the destination, copy in chunks, verify, commit, or roll back."""

import hashlib
from dataclasses import replace

from protocol.results import TransferResult
from protocol.vocabulary import Initialize, MemoryType, TransferState, TransferType
from worker.backends.base import COPY_CHUNK_BYTES, CopiesWhole, DeviceBackend
from worker.backends.block_copy import copy_block
from worker.backends.pieces import no_progress
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_S, NS_PER_US
from worker.core.errors import (
    CancelledError,
    ChecksumMismatchError,
    DeadlineExceededError,
    InternalError,
    UnsupportedError,
    WorkerError,
)
from worker.core.records import Allocation, AllocationRequest, Report
from worker.core.shortages import patiently, shortage
from worker.manager.transfer_table import ENDED, TransferTable
from worker.wiring import Core
from worker.workers.allocation import AllocationWorker, Unfinished


class TransferWorker:
    """Transfers between any two devices, by way of the worker's own memory where they share none."""

    def __init__(self, core: Core, allocations: AllocationWorker) -> None:
        self._rows = core.manager.allocations
        self._backends = core.backends
        self._allocations = allocations
        self._clock = core.clock
        self._table = TransferTable(core.manager.ids)

    def open(self, source_id: str, destination_device_id: str, memory_type: MemoryType) -> TransferResult:
        """Add a transfer, running from here on. AllocationNotFoundError or UnsupportedError if it can't be."""
        source = self._rows.get(source_id)
        if memory_type is MemoryType.EXTERNAL:
            message = "external memory is held by the host: the worker has nothing to copy into"
            raise UnsupportedError(message, memory_type=memory_type)
        if source.external:
            message = f"{source_id} is held by the host: the worker has only the record of it"
            raise UnsupportedError(message, allocation_id=source_id, memory_type=MemoryType.EXTERNAL)
        return self._table.open(
            state=TransferState.RUNNING,
            source_allocation_id=source_id,
            source_device_id=source.device_id,
            destination_device_id=destination_device_id,
            size_bytes=source.size_bytes,
        )

    def get(self, transfer_id: str) -> TransferResult:
        """Return a transfer as it stands. InvalidRequestError if there is none."""
        return self._table.get(transfer_id)

    def perform(
        self,
        transfer_id: str,
        destination_id: str,
        kind: TransferType,
        memory_type: MemoryType,
        token: CancelToken,
        report: Report,
        *,
        verify: bool,
    ) -> TransferResult:
        """Carry a transfer out. On any failure both ledgers are as before, and it is to be abandoned."""
        started = self._clock.now_ns()
        record = self._table.get(transfer_id)
        token.check()
        source = self._rows.get(record.source_allocation_id)
        made = self._begin(source, destination_id, record, memory_type, kind, token)
        try:
            checksum = self._copy(source, made, transfer_id, token, report, verify=verify)
        except BaseException:
            self._allocations.undo(made)
            raise
        destination = self._allocations.finish(made)
        if kind is TransferType.MOVE:
            self._free_moved(source, destination)
        elapsed = self._clock.now_ns() - started

        def completed() -> TransferResult:
            return self._table.update(
                transfer_id,
                state=TransferState.COMPLETED,
                destination_allocation_id=destination.allocation_id,
                completed_bytes=record.size_bytes,
                duration_us=elapsed // NS_PER_US,
                bytes_per_second=record.size_bytes * NS_PER_S // elapsed if elapsed else None,
                checksum=checksum,
                shared_memory=destination.block.shared_memory,
            )

        return patiently(completed)

    def abandon(self, transfer_id: str, error: BaseException) -> None:
        """Note how a transfer ended that was not completed, or will not be performed; the first time is what counts."""
        stopped = isinstance(error, CancelledError | DeadlineExceededError)
        state = TransferState.CANCELLED if stopped else TransferState.FAILED

        def note() -> None:
            if self._table.get(transfer_id).state in ENDED:
                return
            known = error if isinstance(error, WorkerError) else shortage(error)
            told = known or InternalError("a bug in the worker; the log has it")
            self._table.update(transfer_id, state=state, error=told.body())
            told.details = {"transfer_id": transfer_id, **told.details}

        patiently(note)

    def _free_moved(self, source: Allocation, destination: Allocation) -> None:
        """Free the source of a move, or else its destination: it is in one place, whatever fails."""
        try:
            self._allocations.free(source.allocation_id)
        except BaseException:
            self._allocations.free(destination.allocation_id)
            raise

    def _begin(
        self,
        source: Allocation,
        destination_id: str,
        record: TransferResult,
        memory_type: MemoryType,
        kind: TransferType,
        token: CancelToken,
    ) -> Unfinished:
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
        return self._allocations.begin(destination_id, request, token)

    def _copy(
        self,
        source: Allocation,
        made: Unfinished,
        transfer_id: str,
        token: CancelToken,
        report: Report,
        *,
        verify: bool,
    ) -> str | None:
        size = source.size_bytes

        def done(completed: int) -> None:
            self._table.update(transfer_id, completed_bytes=completed)
            report(completed, size)

        place, destination_id = made.reservation.request.device_id, made.reservation.allocation_id
        out_of, into = self._backends[source.device_id], self._backends[place]
        copy_block(out_of, source.allocation_id, into, destination_id, size, token, done)
        if not verify:
            return None
        expected = _digest(out_of, source.allocation_id, size, token)
        found = _digest(into, destination_id, size, token)
        if found != expected:
            message = f"the copy has {found} where the source has {expected}; it was discarded"
            raise ChecksumMismatchError(message, expected=expected, found=found)
        return expected


def _digest(backend: DeviceBackend, allocation_id: str, size: int, token: CancelToken) -> str:
    """Read a block back, whole, and return its SHA-256."""
    digest = hashlib.sha256()
    if isinstance(backend, CopiesWhole):
        backend.read_each(
            allocation_id, size, lambda _, piece: digest.update(piece), token, no_progress, in_order=True
        )
        return f"sha256:{digest.hexdigest()}"
    chunk = memoryview(bytearray(min(size, COPY_CHUNK_BYTES)))
    for offset in range(0, size, COPY_CHUNK_BYTES):
        piece = chunk[: min(COPY_CHUNK_BYTES, size - offset)]
        backend.read(allocation_id, offset, piece, token)
        digest.update(piece)
    return f"sha256:{digest.hexdigest()}"

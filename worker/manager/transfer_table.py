"""The transfers of late, as they stand."""

from collections import OrderedDict
from dataclasses import replace
from typing import Any

from protocol.results import TransferResult
from protocol.vocabulary import TRANSFER_CAPACITY, TransferState
from worker.core.errors import NOT_KNOWN, InvalidRequestError
from worker.core.ids import Ids
from worker.core.sure_lock import SureLock

ENDED = {TransferState.COMPLETED, TransferState.FAILED, TransferState.CANCELLED}


class TransferTable:
    """Records by id; the oldest ended ones go first, those that run stay."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._lock = SureLock()
        self._records: OrderedDict[str, TransferResult] = OrderedDict()
        self._next = 1

    def open(self, **fields: Any) -> TransferResult:
        """Add a new transfer."""
        with self._lock:
            record = TransferResult(
                transfer_id=self._ids.make("transfer", self._next),
                destination_allocation_id=None,
                completed_bytes=0,
                duration_us=None,
                bytes_per_second=None,
                checksum=None,
                shared_memory=None,
                error=None,
                **fields,
            )
            ended = (key for key, kept in self._records.items() if kept.state in ENDED)
            if len(self._records) >= TRANSFER_CAPACITY and (oldest := next(ended, None)) is not None:
                del self._records[oldest]
            following = self._next + 1
            self._records[record.transfer_id], self._next = record, following
            return record

    def update(self, transfer_id: str, **changes: Any) -> TransferResult:
        """Change a record."""
        with self._lock:
            record = replace(self._records[transfer_id], **changes)
            self._records[transfer_id] = record
            return record

    def get(self, transfer_id: str) -> TransferResult:
        """Return a record. InvalidRequestError if there is none (any more)."""
        with self._lock:
            record = self._records.get(transfer_id)
        if record is None:
            message = f"no transfer {transfer_id!r}; the last {TRANSFER_CAPACITY} are kept"
            raise InvalidRequestError.at("data.transfer_id", message, reason=NOT_KNOWN)
        return record

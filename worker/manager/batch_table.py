"""Work that was cut into batches, so that the rest of it can be cut anew. Pure."""

from collections import OrderedDict
from dataclasses import replace
from itertools import count

from protocol.record import Record
from worker.core.errors import NOT_KNOWN, PlanStaleError
from worker.core.ids import Ids
from worker.core.sure_lock import SureLock

_KEPT = 1000
"""The one that was asked for the longest ago is forgotten for a newer one."""


class BatchWork(Record):
    """Work that can be cut: so many items of so many bytes each, and what is needed once beside each batch."""

    item_count: int
    bytes_per_item: int
    fixed_bytes: int
    max_fraction: float
    device_id: str
    done_items: int = 0

    @property
    def remaining_items(self) -> int:
        """Items that are not done."""
        return self.item_count - self.done_items


class BatchTable:
    """The work that is known. Thread-safe."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._lock = SureLock()
        # All mutable state: the work by its id, the longest unasked first, and the next one's number.
        self._work: OrderedDict[str, BatchWork] = OrderedDict()
        self._numbers = count(1)

    def add(self, work: BatchWork) -> str:
        """Keep work, and return its id."""
        with self._lock:
            plan_id = self._ids.make("batches", next(self._numbers))
            self._work[plan_id] = work
            if len(self._work) > _KEPT:
                self._work.popitem(last=False)
        return plan_id

    def get(self, plan_id: str) -> BatchWork:
        """Return work as far as it is known to be done. PlanStaleError for what was forgotten, or never was."""
        with self._lock:
            if plan_id not in self._work:
                message = (
                    f"no work {plan_id!r} is known: it was forgotten, or never was; ask with item_count anew"
                )
                raise PlanStaleError(message, plan_id=plan_id, reason=NOT_KNOWN)
            self._work.move_to_end(plan_id)
            return self._work[plan_id]

    def note_done(self, plan_id: str, done_items: int) -> None:
        """Note how much of work is done."""
        with self._lock:
            if plan_id in self._work:
                self._work[plan_id] = replace(self._work[plan_id], done_items=done_items)

"""Work cut into batches that fit into what there is, and the rest of it anew when that has changed."""

from dataclasses import replace

from protocol.results import PlanBatchesResult
from worker.core.errors import InvalidRequestError, OutOfMemoryError
from worker.core.records import AllocationRequest
from worker.interface.questions import Questions
from worker.manager.batch_table import BatchWork
from worker.policy.batches import least_headroom, plan_batches
from worker.wiring import Core


class Batches:
    """What cuts work, and knows it again."""

    def __init__(self, core: Core, questions: Questions) -> None:
        self._table = core.manager.batches
        self._questions = questions
        self._pressure = core.manager.pressure

    def plan(self, work: BatchWork) -> PlanBatchesResult:
        """Cut work. Raises what ``plan_batches`` raises; then nothing is kept."""
        planned = self._cut(work)
        return replace(planned, plan_id=self._table.add(work), remaining_items=work.remaining_items)

    def plan_rest(self, plan_id: str, done_items: int | None) -> PlanBatchesResult:
        """Cut what is left of work by the headroom that there is now; as much is done as was last said, if left out.

        PlanStaleError for work that is not known; InvalidRequestError for more done than there is; and as ``plan``.
        """
        work = self._table.get(plan_id)
        if done_items is not None:
            if done_items > work.item_count:
                message = f"{done_items} of {work.item_count} items are done: that is more than there are"
                raise InvalidRequestError.at("data.done_items", message)
            work = replace(work, done_items=done_items)
        planned = self._cut(work)
        self._table.note_done(plan_id, work.done_items)
        return replace(planned, plan_id=plan_id, remaining_items=work.remaining_items)

    def _cut(self, work: BatchWork) -> PlanBatchesResult:
        available = self._questions.available_bytes(work.device_id)
        item, fixed, share = work.bytes_per_item, work.fixed_bytes, work.max_fraction
        try:
            return plan_batches(work.remaining_items, item, fixed, share, work.device_id, available)
        except OutOfMemoryError as error:
            least = AllocationRequest(work.device_id, least_headroom(item, fixed, share))
            error.retryable = self._pressure.can_ever_fit(least)
            raise

"""The one reaper: begins the end of every lease, and of every model that has been idle for too long, when it is due.

It pulls what is due from the manager's due table, so that nothing is kept of what was freed, renewed or used again.
"""

from collections.abc import Callable

from worker.core.clock import NS_PER_MS
from worker.core.log import log
from worker.interface.interface_memory import MemoryInterface
from worker.stream.work import Claim, Work, model_claim
from worker.wiring import Core

_TRY_AGAIN_NS = 100 * NS_PER_MS

Submit = Callable[[Work], None]
"""Runs background work in its order among the requests'. It counts for none in flight, and does not wait."""


class Reaper:
    """Turns what is due into background work."""

    def __init__(self, core: Core, memory: MemoryInterface, submit: Submit) -> None:
        self._due = core.manager.due
        self._clock = core.clock
        self._memory = memory
        self._submit = submit
        self.changed = self._due.changed
        self.next_ns = self._due.next_ns

    def run_due(self) -> None:
        """Begin the end of all that is due now."""
        now_ns = self._clock.now_ns()
        again_ns = now_ns + _TRY_AGAIN_NS
        while (lease := self._due.pop_lease(now_ns)) is not None:
            if not self._begin(self._end_of_lease(*lease)):
                self._due.set_lease(*lease, again_ns)
        while (model_id := self._due.pop_idle(now_ns)) is not None:
            if not self._begin(self._end_of_keep_alive(model_id)):
                self._due.set_idle(model_id, again_ns)

    def _begin(self, work: Work) -> bool:
        try:
            self._submit(work)
        except Exception as error:  # noqa: BLE001 - no thread to be had, or a bug: the other leases have to end too
            log("error", "what is due could not be begun; it is tried again", error=repr(error))
            return False
        return True

    def _end_of_lease(self, device_id: str, allocation_id: str) -> Work:
        return Work(
            action="end of a lease",
            run=lambda _: self._memory.allocations.expire(allocation_id),
            claims=(Claim(allocation_id, exclusive=True), Claim(device_id, exclusive=False)),
            quick=False,
        )

    def _end_of_keep_alive(self, model_id: str) -> Work:
        return Work(
            action="end of a keep-alive",
            run=lambda _: self._memory.models.expire(model_id),
            claims=(model_claim(model_id),),
            quick=False,
        )

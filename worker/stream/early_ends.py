"""Work that ends early: cancelled, or out of time, before a thread took it or while one is at it."""

from functools import partial

from protocol.vocabulary import Executed
from worker.core.clock import NS_PER_MS, Clock
from worker.core.errors import CancelledError, DeadlineExceededError, WorkerError
from worker.stream.alarm import Alarm
from worker.stream.event_writer import EventWriter
from worker.stream.lanes import Job, Lanes

_NOTICED_NS = 500 * NS_PER_MS
"""Work that has not noticed its cancelling, or that its deadline passed, after this is answered for: it may hang."""


class EarlyEnds:
    """Answers for jobs whose work has not, or will not be done. For any thread."""

    def __init__(self, lanes: Lanes, event_writer: EventWriter, clock: Clock, alarm: Alarm) -> None:
        self._lanes = lanes
        self._event_writer = event_writer
        self._now_ns = clock.now_ns
        self._alarm = alarm

    def cancel(self, job: Job) -> None:
        """Cancel a job: given up if it has not begun, answered for if it does not notice."""
        job.token.cancel()
        if not self._give_up(job, CancelledError("cancelled while it was queued; it was not started")):
            message = "cancelled, and it has not noticed yet: it may hang; what it does is taken back where it can be"
            self._expect_end(job, CancelledError(message))

    def shed(self, job: Job) -> None:
        """Give up a job whose deadline passed in the queue; expect the end of one that runs."""
        error = DeadlineExceededError("the deadline passed while it was queued; it was not started")
        if not self._give_up(job, error):
            message = "the deadline passed, and it has not noticed yet: it may hang;"
            self._expect_end(
                job, DeadlineExceededError(f"{message} what it does is taken back where it can be")
            )

    def _expect_end(self, job: Job, error: WorkerError) -> None:
        """Answer for a job that runs, unless it ends soon: no caller waits for what hangs."""
        if not (job.finished or job.background):
            error.executed = Executed.UNKNOWN
            later = partial(self._event_writer.reply, partial(job.give_up, error))
            job.set_timer(self._alarm.at(self._now_ns() + _NOTICED_NS, later))

    def _give_up(self, job: Job, error: WorkerError) -> bool:
        """Answer for a job that has not begun, and does not any more. False if it has begun.

        Called again where memory was short: it is answered once, whatever the number of calls.
        """
        answer = partial(job.give_up, error)
        if not self._lanes.withdraw(job):
            return False
        if job.queued:
            job.lane.discard(job)
        self._event_writer.reply(answer)
        job.set_timer(None)
        return True

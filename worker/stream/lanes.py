"""Who may run now: work that claims the same thing goes in arrival order, everything else side by side."""

import threading
from collections.abc import Callable

from worker.core.cancellation import CancelToken
from worker.core.errors import WorkerError
from worker.stream.work import Claim, Work


class Job:
    """Admitted work: waiting, running, or done."""

    def __init__(
        self,
        request_id: str,
        work: Work,
        token: CancelToken,
        start: Callable[["Job"], None],
        give_up: Callable[[WorkerError], None],
    ) -> None:
        self.request_id = request_id
        self.work = work
        self.token = token
        self.start = start
        """Called once, when nothing earlier is in its way; must not wait."""
        self.give_up = give_up
        """Called instead, with the reason, if it is taken out before it started."""
        self.running = False
        self.answered = False


class Lanes:
    """All unfinished jobs, in arrival order."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        # All mutable state.
        self._jobs: list[Job] = []
        self.unfinished = 0
        self.unanswered = 0
        """Of the unfinished ones, those whose answer is still to come: what a host counts as in flight."""

    def free(self, claims: tuple[Claim, ...]) -> bool:
        """Tell whether work with these claims would not have to wait."""
        with self.changed:
            return not any(_conflict(job.work.claims, claims) for job in self._jobs)

    def admit(self, job: Job) -> bool:
        """Add a job, and start it unless an earlier one is in its way. Returns whether it started."""
        with self.changed:
            self._jobs.append(job)
            self.unfinished += 1
            self.unanswered += 1
            self._start_ready()
            return job.running

    def finish(self, job: Job) -> None:
        """Take a job out, and start those that waited for it."""
        with self.changed:
            self._remove(job)
            self._start_ready()
            self.changed.notify_all()

    def answering(self, job: Job) -> None:
        """Note that a job's answer is about to be written: who has read it may ask for more."""
        with self.changed:
            job.answered = True
            self.unanswered -= 1

    def find(self, request_id: str) -> Job | None:
        """Return the unfinished job of a request."""
        with self.changed:
            return next((job for job in self._jobs if job.request_id == request_id), None)

    def withdraw(self, job: Job) -> bool:
        """Take out a job that has not started. False if it has, or is done."""
        with self.changed:
            if job.running or job not in self._jobs:
                return False
            self._remove(job)
            self._start_ready()
            self.changed.notify_all()
            return True

    def jobs(self) -> tuple[Job, ...]:
        """Return all unfinished jobs."""
        with self.changed:
            return tuple(self._jobs)

    def running(self) -> int:
        """Return how many jobs run, but for those that wait for all the others."""
        return sum(job.running and not job.work.control for job in self._jobs)

    def wait_until(self, reached: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until something holds. False if it did not within the time."""
        with self.changed:
            return self.changed.wait_for(reached, seconds)

    def _remove(self, job: Job) -> None:
        self._jobs.remove(job)
        self.unfinished -= 1
        self.unanswered -= not job.answered

    def _start_ready(self) -> None:
        earlier: list[tuple[Claim, ...]] = []
        for job in self._jobs:
            claims = job.work.claims
            if not job.running and not any(_conflict(other, claims) for other in earlier):
                job.running = True
                job.start(job)
            earlier.append(claims)


def _conflict(one: tuple[Claim, ...], other: tuple[Claim, ...]) -> bool:
    return any(a.key == b.key and (a.alone or b.alone) for a in one for b in other)

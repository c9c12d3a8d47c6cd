"""Who may run now: work that claims the same thing goes in arrival order, everything else side by side.

What may run and what has a thread are different things: a job that may run waits for a thread of its own lane
(``thread_lanes``), and can be withdrawn until one takes it.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Protocol

from worker.core.cancellation import CancelToken
from worker.core.errors import WorkerError
from worker.core.sure_lock import SureCondition, SureLock
from worker.stream.alarm import Timer
from worker.stream.work import Claim, Work


class Threads(Protocol):
    """What has threads for jobs."""

    def put(self, job: "Job") -> None:
        """Take a job over, without waiting. It can be put again where that failed half-way."""
        ...

    def discard(self, job: "Job") -> None:
        """Let go of a job that was withdrawn."""
        ...


class Job:
    """Admitted work: waiting for others, for a thread, running, or done."""

    __slots__ = (
        "answered", "background", "begun", "claims", "finished", "give_up", "hangs", "lane", "order", "queued", "request_id",
        "run", "running", "timer", "token", "work",
    )  # fmt: skip

    def __init__(
        self,
        request_id: str,
        work: Work,
        token: CancelToken,
        run: Callable[["Job"], None],
        lane: "Threads",
        give_up: Callable[[WorkerError], None],
        *,
        background: bool = False,
    ) -> None:
        self.request_id = request_id
        self.work = work
        self.token = token
        self.run = run
        """What is left to be done of it. Called by the thread that takes it, again where that failed half-way."""
        self.lane = lane
        """Takes it over when nothing earlier is in its way."""
        self.give_up = give_up
        """Called instead of ``run``, with the reason, if it is taken out before it began."""
        self.background = background
        """No caller waits for it: it does not count as in flight."""
        self.claims = _merged(work.claims)
        self.order = 0
        self.running = False
        """Whether nothing is in its way."""
        self.queued = False
        """Whether it was put into a lane of threads."""
        self.begun = False
        """Whether a thread has it."""
        self.answered = False
        """Whether whoever waits for it was told how it ended."""
        self.hangs = False
        """Whether it did not notice that it was cancelled, and was answered for."""
        self.finished = False
        self.timer: Timer | None = None
        """Answers for it where its deadline passes before it began, or before it noticed."""

    def set_timer(self, timer: Timer | None) -> None:
        """Put a timer in place of the one before; it is cancelled where the job has ended meanwhile."""
        before, self.timer = self.timer, timer
        if before is not None:
            before.cancel()
        if timer is not None and self.finished:
            timer.cancel()


class _Queue:
    """The unfinished jobs that claim one thing, in arrival order, and those of them that claim it exclusively."""

    __slots__ = ("exclusive", "jobs")

    def __init__(self) -> None:
        self.jobs: dict[Job, None] = {}
        self.exclusive: dict[Job, None] = {}

    def lets(self, job: Job, *, exclusive: bool) -> bool:
        """Tell whether no earlier job is in the way of this one."""
        if exclusive:
            return next(iter(self.jobs)) is job
        first = next(iter(self.exclusive), None)
        return first is None or first.order > job.order

    def unblocked(self) -> Iterator[Job]:
        """Return those that nothing in this queue is in the way of."""
        for job in self.jobs:
            exclusive = job in self.exclusive
            if not exclusive or job is next(iter(self.jobs)):
                yield job
            if exclusive:
                return


class Lanes:
    """All unfinished jobs, in arrival order. Every change can be repeated: what failed half-way is done again."""

    def __init__(self) -> None:
        self._lock = SureLock()
        self.changed = SureCondition(self._lock)
        self._orders = itertools.count()
        # All mutable state.
        self.unfinished_jobs: dict[Job, None] = {}
        self._unanswered: dict[Job, None] = {}
        self._queues: dict[str, _Queue] = {}

    @property
    def unfinished(self) -> int:
        """How many jobs are not finished."""
        return len(self.unfinished_jobs)

    @property
    def awaited(self) -> int:
        """How many of them are worth waiting for: what hangs may do so for ever."""
        return sum(not job.hangs for job in self.unfinished_jobs)

    @property
    def owed(self) -> int:
        """How many jobs owe something yet: an answer, or work that goes on after one. One that has just answered does not."""
        with self._lock:
            return sum(job.background or job in self._unanswered for job in self.unfinished_jobs)

    @property
    def unanswered(self) -> int:
        """How many requests wait for their answer."""
        return len(self._unanswered)

    def free(self, claims: tuple[Claim, ...]) -> bool:
        """Tell whether work with these claims would not have to wait."""
        with self._lock:
            for claim in claims:
                queue = self._queues.get(claim.key)
                if queue is not None and (claim.exclusive or queue.exclusive):
                    return False
            return True

    def admit(self, job: Job) -> bool:
        """Add a job, and start it unless an earlier one is in its way. Returns whether it started."""
        with self._lock:
            job.order = next(self._orders)
            try:
                self.unfinished_jobs[job] = None
                if not job.background:
                    self._unanswered[job] = None
                for key, exclusive in job.claims.items():
                    queue = self._queues.get(key)
                    if queue is None:
                        queue = self._queues[key] = _Queue()
                    if exclusive:
                        queue.exclusive[job] = None
                    queue.jobs[job] = None
                self._start_if_ready(job)
            except BaseException:
                self._remove(job)
                raise
            return job.running

    def begin(self, job: Job) -> bool:
        """Note that a thread has it. False if it was withdrawn."""
        with self._lock:
            job.begun = job in self.unfinished_jobs
            return job.begun

    def finish(self, job: Job) -> None:
        """Take a job out, and start those that waited for it."""
        with self._lock:
            job.finished = True
            self._remove(job)

    def answering(self, job: Job) -> None:
        """Note that a job's answer is about to be written: who has read it may ask for more."""
        with self._lock:
            self._unanswered.pop(job, None)

    def given_up(self, job: Job) -> None:
        """Note that a job was answered for while it ran."""
        with self._lock:
            job.hangs = True
            self.changed.notify_all()

    def find(self, request_id: str) -> Job | None:
        """Return the unfinished job of a request."""
        with self._lock:
            return next((job for job in self.unfinished_jobs if job.request_id == request_id), None)

    def withdraw(self, job: Job) -> bool:
        """Take out a job that has not begun. False if it has."""
        with self._lock:
            if job.begun:
                return False
            if job in self.unfinished_jobs:
                job.finished = True
                self._remove(job)
            return True

    def jobs(self) -> tuple[Job, ...]:
        """Return all unfinished jobs."""
        with self._lock:
            return tuple(self.unfinished_jobs)

    def running(self) -> int:
        """Return how many jobs run, or will without anything else ending, but for those that wait for all others."""
        return sum(job.running and not job.work.control for job in self.unfinished_jobs)

    def wait_until(self, reached: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait until something holds. False if it did not within the time."""
        with self.changed:
            return self.changed.wait_for(reached, seconds)

    def _remove(self, job: Job) -> None:
        for key, exclusive in job.claims.items():
            queue = self._queues.get(key)
            if queue is None:
                continue
            # Those that come after it may be many: it is no use to look at them where it was in no other job's way.
            in_the_way = exclusive or bool(queue.exclusive)
            queue.jobs.pop(job, None)
            queue.exclusive.pop(job, None)
            if not queue.jobs:
                del self._queues[key]
            elif in_the_way:
                for each in queue.unblocked():
                    self._start_if_ready(each)
        self._unanswered.pop(job, None)
        self.unfinished_jobs.pop(job, None)
        self.changed.notify_all()

    def _start_if_ready(self, job: Job) -> None:
        if job.running:
            return
        if all(self._queues[key].lets(job, exclusive=exclusive) for key, exclusive in job.claims.items()):
            job.lane.put(job)
            job.running = True


def _merged(claims: tuple[Claim, ...]) -> dict[str, bool]:
    """Return for each key whether it is claimed exclusively."""
    merged: dict[str, bool] = {}
    for claim in claims:
        merged[claim.key] = claim.exclusive or merged.get(claim.key, False)
    return merged

"""From a request to its one reply: admitted or refused, run here or on a lane of threads, answered, remembered.

Every request has one guard, whatever goes wrong with it: ``accept`` for what runs here, ``_work_off`` for what a
thread runs. A guard answers with what it has, and releases what the request claimed.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from protocol.vocabulary import HealthState
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS, Clock
from worker.core.errors import (
    OverloadedError,
    ShuttingDownError,
    UnknownActionError,
    WorkerError,
)
from worker.core.health import PartHealth
from worker.core.log import log, logs
from worker.core.records import no_report
from worker.core.shortages import patiently
from worker.metrics.history import History
from worker.stream.alarm import Alarm
from worker.stream.early_ends import EarlyEnds
from worker.stream.event_writer import EventWriter
from worker.stream.execution import Executor
from worker.stream.failures import last_words, wire_error
from worker.stream.frame_writer import FrameWriter
from worker.stream.frames import Incoming
from worker.stream.lanes import Job, Lanes
from worker.stream.replay import Answers, body_of
from worker.stream.thread_lanes import CONTROL, THREADS_MAX, Devices, ThreadLane, ThreadLanes
from worker.stream.work import Call, Claim, TimedCall, Work

_RETRY_AFTER_MS = 100


def _no_caller_waits(_error: WorkerError) -> None:
    """Tell no caller that work was given up."""


Prepare = Callable[[str, dict[str, Any]], Work]
"""What turns an action and its data into work, or raises WorkerError: the instructor."""


class JobRunner:
    """Runs work. ``accept`` is for the reading thread; everything else for any."""

    def __init__(
        self,
        writer: FrameWriter,
        event_writer: EventWriter,
        clock: Clock,
        alarm: Alarm,
        history: History,
        devices: Devices,
        *,
        max_inflight: int,
        max_frame_bytes: int,
        threads_max: int = THREADS_MAX,
    ) -> None:
        self.max_inflight = max_inflight
        self.max_frame_bytes = max_frame_bytes
        self._writer = writer
        self._now_ns = clock.now_ns
        self._alarm = alarm
        self._executor = Executor(writer, clock, history, max_frame_bytes)
        self._threads = ThreadLanes(self._work_off, devices, threads_max)
        # All mutable state: what is unfinished, what was answered, and whether more is admitted.
        self._lanes = Lanes()
        self._early = EarlyEnds(self._lanes, event_writer, clock, alarm)
        self._answers = Answers()
        # Looked at for every request, so without a call.
        self._given, self._in_flight = self._answers.given, self._answers.in_flight
        self._unfinished = self._lanes.unfinished_jobs
        self._draining = False
        self.unfinished_at_shutdown = 0
        """How much was owed when ``worker.shutdown`` came: answers, and work that goes on after one."""

    def start(self, *lanes: str) -> None:
        """Make these lanes' first threads now, and control's. OutOfMemoryError where the system has none."""
        for name in (CONTROL, *lanes):
            self._threads.lane(name)

    def health(self) -> Iterator[PartHealth]:
        """Tell whether more is admitted."""
        unanswered, state = self._lanes.unanswered, HealthState.OK
        said = f"{unanswered} in flight of {self.max_inflight} that are admitted"
        if self._draining:
            state, said = HealthState.DEGRADED, f"shutting down: {said}"
        elif unanswered >= self.max_inflight:
            state = HealthState.DEGRADED
        yield PartHealth("requests", state, said)

    # ---- the path of a request ----

    def accept(self, request: Incoming, prepare: Prepare) -> None:
        """Answer a request, now or when the work that ``prepare`` makes of it is done.

        1. It cannot be understood: refused, whatever else holds.
        2. Its answer was given before, or is being made: that answer. The same id for other work: refused.
        3. The worker is ending, or has too much in flight: refused, unless it is a control action.
        4. It is quick and nothing is in its way: run here. Else it joins the lanes.
        """
        try:
            request.arrived_ns = self._now_ns()
            try:
                work = prepare(request.action, request.data)  # 1
                known = (
                    work.changes or request.request_id in self._given or request.request_id in self._in_flight
                )
                if known and self._answered_again(request, work):  # 2
                    return
                busy = self._draining or self._unfinished or not work.quick
                lane = self._admitted(work) if busy else None  # 3
                if work.start is not None:
                    work = replace(work, run=work.start(request))
            except WorkerError as error:
                self._refuse(request, error)
                return
            if lane is not None:
                self._enqueue(request, work, lane)
            else:
                self._run_here(request, work)  # 4
        except BaseException as error:  # noqa: BLE001 - the guard of what this thread runs
            patiently(partial(self._rescue, request, error))

    def _run_here(self, request: Incoming, work: Work) -> None:
        call = None
        if request.deadline_ms is not None:
            call = TimedCall(self._now_ns, request.arrived_ns + request.deadline_ms * NS_PER_MS)
        execute = self._execute if work.changes else self._executor.execute
        full = self._writer.batch(execute(request, work, call))
        request.answered = True
        if full:
            self._writer.flush()
        if request.follows is not None:
            self._writer.flush()  # the host sees this reply before what it causes
            self._begin_what_follows(request)

    def submit(
        self,
        work: Work,
        request_id: str = "",
        give_up: Callable[[WorkerError], None] = _no_caller_waits,
        *,
        brief: bool = False,
    ) -> None:
        """Run work that no caller is answered for, in its order among the requests'; it counts for none in flight.

        ``brief`` work does not wait for the threads of requests' work. OutOfMemoryError where it would need the
        first thread of a lane, and the system has none.
        """
        lane = self._threads.lane_of(work, brief=brief)
        token = CancelToken(self._now_ns)
        self._lanes.admit(Job(request_id, work, token, self._quietly, lane, give_up, background=True))

    def submit_if_free(self, work: Work, unclaimed: tuple[Claim, ...]) -> bool:
        """Run work that no caller waits for, but only if no request claims any of that. Returns whether it runs."""
        if self._draining or not self._lanes.free(unclaimed):
            return False
        self.submit(work)
        return True

    def cancel(self, request_id: str) -> Callable[[], None] | None:
        """Return what cancels an unfinished request; None if there is none."""
        job = self._lanes.find(request_id)
        if job is None or job.work.control:
            return None
        found = job
        return lambda: self._early.cancel(found)

    def stop_admitting(self) -> int:
        """Refuse whatever comes from now on, but for control actions. Returns how much is owed."""
        self._draining = True
        return self._lanes.owed

    def wait_for_all(self, seconds: float | None, *, besides: int = 0) -> bool:
        """Wait until all is done ``besides`` so many, whoever asks, and what hangs. False if it was not within the time."""
        return self._lanes.wait_until(lambda: self._lanes.awaited <= besides, seconds)

    def cancel_all(self) -> None:
        """Cancel what is unfinished. May wait for the host to read the answers."""
        jobs = [job for job in self._lanes.jobs() if not job.work.control]
        for job in jobs:
            job.token.cancel()
        for job in jobs:
            self._early.cancel(job)

    def wait_settled(self, parked: Callable[[], int]) -> None:
        """Wait until whatever can go on has done so; ``parked`` tells how many jobs cannot."""
        self._lanes.wait_until(lambda: self._lanes.running() <= parked())

    def wake(self) -> None:
        """Look again whether it is settled."""
        with self._lanes.changed:
            self._lanes.changed.notify_all()

    # ---- inside: before it runs ----

    def _answered_again(self, request: Incoming, work: Work) -> bool:
        """Answer a repetition, now or with the first. DuplicateRequestIdError for an id of other work."""
        frame = self._answers.again(request, body_of(work.action, request.data))
        if frame is not None:
            self._batch(request, frame)
        return request.answered

    def _admitted(self, work: Work) -> ThreadLane | None:
        """Return the threads that are to do it, None for this one. Raises why it is not admitted."""
        if not work.control and (self._draining or self._lanes.unanswered >= self.max_inflight):
            raise self._refusal()
        if work.quick and (not self._lanes.unfinished or self._lanes.free(work.claims)):
            return None
        lane = self._threads.lane_of(work, brief=work.brief)
        if work.action == "worker.shutdown":
            if self._draining:
                raise _shutting_down()
            # What comes after it is refused, although it ends on another thread.
            self.unfinished_at_shutdown = self.stop_admitting()
        return lane

    def _refuse(self, request: Incoming, error: WorkerError) -> None:
        self._batch(request, self._executor.error_frame(request, error))
        if logs("debug"):
            told = {"request_id": request.request_id, "traceparent": request.traceparent}
            log("debug", "refused", action=request.action, code=error.code, reason=error.message, **told)
        # What is no action is counted under one name, whatever it was: the record stays bounded.
        known = not isinstance(error, UnknownActionError)
        self._executor.record(request, failed=True, action=None if known else "unknown_action")

    def _refusal(self) -> WorkerError:
        if self._draining:
            return _shutting_down()
        message = f"as many requests are in flight as are admitted: {self.max_inflight}"
        return OverloadedError(message, max_inflight=self.max_inflight, retry_after_ms=_RETRY_AFTER_MS)

    def _enqueue(self, request: Incoming, work: Work, lane: ThreadLane) -> None:
        token = CancelToken(self._now_ns)
        if request.deadline_ms is not None:
            token.deadline_ns = request.arrived_ns + request.deadline_ms * NS_PER_MS
        body = body_of(work.action, request.data) if request.body is None else request.body
        spare = last_words(request.request_id)

        def give_up(error: WorkerError) -> None:
            if job.answered:
                return
            frame = request.frame or self._executor.error_frame(request, error)
            if work.changes:
                self._answers.keep(request.request_id, body, frame)
            self._lanes.answering(job)
            self._answers.give(request, frame, self._writer.write)
            job.answered = True
            self._lanes.given_up(job)
            self._executor.record(request, failed=True)
            if work.abandoned is not None and not job.begun:
                work.abandoned(error)

        def run(job: Job) -> None:
            job.run = conclude
            self._run_job(request, job)
            conclude(job)

        def conclude(job: Job) -> None:
            self._conclude(request, job, spare)

        job = Job(request.request_id, work, token, run, lane, give_up)
        self._answers.expect(request.request_id, body)
        request.body = body
        try:
            self._lanes.admit(job)
        except BaseException:
            self._answers.expect_no_more(request.request_id)
            raise
        request.answered = True  # from here on it is the job's guard that answers
        if token.deadline_ns is not None:
            job.set_timer(self._alarm.at(token.deadline_ns, lambda: self._early.shed(job)))

    # ---- inside: while it runs ----

    def _work_off(self, job: Job) -> None:
        """Run a job: the guard of what a lane's thread runs. Called again where it fails itself: it goes on then."""
        if not job.begun and not self._lanes.begin(job):  # outside the guard: where it fails, nothing began
            return  # it was withdrawn
        try:
            job.run(job)
        finally:
            patiently(lambda: self._lanes.finish(job))
            job.set_timer(None)

    def _run_job(self, request: Incoming, job: Job) -> None:
        """Run a request's work, and make its reply."""
        try:
            report = self._executor.reporter(request) if request.progress else no_report
            self._execute(request, job.work, Call(job.token, report))
        except BaseException as error:  # noqa: BLE001 - what could not even be made an error of
            patiently(partial(self._failed, request, job.work, error))

    def _failed(self, request: Incoming, work: Work, error: BaseException) -> None:
        """Make the reply of a request whose work could not be called, or what came of it not be told."""
        wired = wire_error(error, work.action, request.traceparent, changes=work.changes)
        request.frame = request.frame or self._executor.error_frame(request, wired)

    def _conclude(self, request: Incoming, job: Job, spare: bytes) -> None:
        """Answer, with the frame that was made beforehand if there is no other, and begin what follows."""
        if not job.answered:  # it was, where it took far too long
            frame = request.frame or spare
            patiently(lambda: self._lanes.answering(job))
            patiently(lambda: self._answers.give(request, frame, self._writer.write))
            job.answered = True
        if request.follows is not None:
            self._begin_what_follows(request)

    def _quietly(self, job: Job) -> None:
        """Run work that no caller waits for. Its errors are where it keeps them; a bug is logged, and told to it."""
        job.run = _left_half_way
        try:
            job.work.run(Call(job.token, no_report))
        except WorkerError as error:
            log("info", "background work ended early", action=job.work.action, error=error.message)
        except BaseException as error:  # noqa: BLE001 - a bug, or short memory, and the worker goes on
            failed = error
            patiently(lambda: job.give_up(wire_error(failed, job.work.action, None)))
        job.answered = True

    def _execute(self, request: Incoming, work: Work, call: Call | None) -> bytes:
        """Run work, and remember the reply of what changed something."""
        frame = self._executor.execute(request, work, call)
        if work.changes and request.body is not None:
            try:
                self._answers.keep(request.request_id, request.body, frame)
            except MemoryError:
                patiently(partial(self._answers.keep, request.request_id, request.body, frame))
        return frame

    # ---- inside: after it ran ----

    def _batch(self, request: Incoming, frame: bytes) -> None:
        """Answer from the reading thread, along with the chunk's other requests."""
        full = self._writer.batch(frame)
        request.answered = True
        if full:
            self._writer.flush()

    def _rescue(self, request: Incoming, error: BaseException) -> None:
        """Answer a request whose path here ended by something that no caller expected."""
        wired = wire_error(error, request.action, request.traceparent)
        if not request.answered:  # where its work is done its reply is made, and still the truth
            self._batch(request, request.frame or self._executor.error_frame(request, wired))
        if request.follows is not None:
            self._writer.flush()
            self._begin_what_follows(request)

    def _begin_what_follows(self, request: Incoming) -> None:
        """Do what a reply promised, once. Called again where memory was short."""
        answer = request.follows
        if answer is None:
            return
        work = answer.background
        if work is not None:
            give_up = work.abandoned or _no_caller_waits
            try:
                self.submit(work, request.request_id, give_up)
            except BaseException as error:  # noqa: BLE001 - it was promised, so what waits for it is told
                failure = error
                patiently(lambda: give_up(wire_error(failure, work.action, request.traceparent)))
        if answer.then is not None:
            answer.then()
        request.follows = None


def _left_half_way(job: Job) -> None:
    """Tell work that no caller waits for that it ended early: its thread found no memory even for that."""
    if not job.answered:
        job.give_up(wire_error(MemoryError(), job.work.action, None))
        job.answered = True


def _shutting_down() -> ShuttingDownError:
    message = "the worker is shutting down and admits nothing new"
    return ShuttingDownError(message)

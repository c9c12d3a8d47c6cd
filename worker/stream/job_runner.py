"""From a request to its one reply: admitted or refused, run here or by the pool, answered, remembered."""

import queue
import threading
import traceback
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from protocol.envelope import Meta
from protocol.results import ProgressData
from protocol.vocabulary import Executed
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS, Clock
from worker.core.errors import (
    CancelledError,
    DeadlineExceededError,
    FrameTooLargeError,
    InternalError,
    OverloadedError,
    ShuttingDownError,
    UnknownActionError,
    WorkerError,
)
from worker.core.log import log
from worker.metrics.history import History
from worker.stream.alarm import Alarm
from worker.stream.frame_writer import FrameWriter
from worker.stream.frames import Incoming, error_frame, event_frame, replayed_frame, success_frame
from worker.stream.lanes import Job, Lanes
from worker.stream.replay import Replay, body_of, duplicate
from worker.stream.work import Answer, Call, Work

_POOL_THREADS = 4
_PROGRESS_INTERVAL_NS = 100 * NS_PER_MS
_RETRY_AFTER_MS = 100


def _no_report(_completed: int, _total: int) -> None:
    """Tell nobody how far the work has come."""


def _nobody_waits(_error: WorkerError) -> None:
    """Tell nobody that work was given up."""


Prepare = Callable[[str, dict[str, Any]], Work]
"""What turns an action and its data into work, or raises WorkerError: the instructor."""


class JobRunner:
    """Runs work. ``accept`` is for the reading thread; everything else for any."""

    def __init__(
        self,
        writer: FrameWriter,
        clock: Clock,
        alarm: Alarm,
        history: History,
        *,
        max_inflight: int,
        max_frame_bytes: int,
    ) -> None:
        self.max_inflight = max_inflight
        self.max_frame_bytes = max_frame_bytes
        self._writer = writer
        self._clock = clock
        self._alarm = alarm
        self._history = history
        self._never = CancelToken(clock.now_ns)
        self._plain_call = Call(self._never, _no_report)
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        # All mutable state: what is unfinished, what was answered, and whether more is admitted.
        self._lanes = Lanes()
        self._replay = Replay()
        self._unanswered: dict[str, tuple[bytes, int]] = {}
        """Body, and how many repetitions wait for its answer, of each changing request in the lanes."""
        self._threads = 0
        self._draining = False

    def bind(self, prepare: Prepare) -> None:
        """Name what turns requests into work: it needs the loop, and the loop this, so it comes last."""
        self._prepare = prepare

    # ---- the path of a request ----

    def accept(self, request: Incoming) -> None:
        """Answer a request, now or when its work is done.

        1. It cannot be understood: refused, whatever else holds.
        2. Its answer was given before, or is being made: that answer.
        3. The worker is ending, or has too much in flight: refused, unless it is a control action.
        4. It is quick and nothing is in its way: run here. Else it joins the lanes.
        """
        request.arrived_ns = self._clock.now_ns()
        try:
            work = self._prepare(request.action, request.data)  # 1
            known = work.changes or request.request_id in self._replay
            if known and self._answer_again(request, work):  # 2
                return
            if not work.control and (self._draining or self._lanes.unanswered >= self.max_inflight):
                raise self._refusal()  # 3
            if self._draining and work.action == "worker.shutdown":
                raise _shutting_down()
        except WorkerError as error:
            self._writer.batch(self._error_frame(request, error))
            # What is no action is counted under one name, whatever it was: the record stays bounded.
            known = not isinstance(error, UnknownActionError)
            self._record(request, failed=True, action=None if known else "unknown_action")
            return
        if work.start is not None:
            work = replace(work, run=work.start())
        token = self._never
        if request.meta is not None and request.meta.deadline_ms is not None:
            deadline = request.arrived_ns + request.meta.deadline_ms * NS_PER_MS
            token = CancelToken(self._clock.now_ns, deadline)
        if work.quick and (not self._lanes.unfinished or self._lanes.free(work.claims)):  # 4
            frame, answer = self._execute(request, work, token, _no_report)
            self._writer.batch(frame)
            if answer is not None:
                self._writer.flush()  # the host sees this reply before what it causes
                self._after(request, answer)
        else:
            self._enqueue(request, work, token)

    def submit(
        self,
        work: Work,
        request_id: str = "",
        give_up: Callable[[WorkerError], None] = _nobody_waits,
        *,
        alone: bool = False,
    ) -> None:
        """Run work that nobody is answered for, in its order among the requests'.

        ``alone`` gives it a thread of its own: it does not wait for long work that it has nothing to do with.
        """

        def start(job: Job) -> None:
            self._hand_over(lambda: self._quietly(job), alone=alone)

        self._lanes.admit(Job(request_id, work, CancelToken(self._clock.now_ns), start, give_up))

    def submit_if_free(self, work: Work) -> bool:
        """Run work that nobody waits for, but only if it need not wait for any request. Returns whether it runs."""
        if self._draining or not self._lanes.free(work.claims):
            return False
        self.submit(work)
        return True

    def cancel(self, request_id: str) -> Callable[[], None] | None:
        """Return what cancels an unfinished request; None if there is none."""
        job = self._lanes.find(request_id)
        if job is None or job.work.control:
            return None
        found = job
        return lambda: self._cancel(found)

    def stop_admitting(self) -> int:
        """Refuse whatever comes from now on, but for control actions. Returns how much is unfinished."""
        self._draining = True
        return self._lanes.unfinished

    def wait_for_all(self, seconds: float | None, *, besides: int = 0) -> bool:
        """Wait until all is done ``besides`` so many: whoever asks. False if it was not within the time."""
        return self._lanes.wait_until(lambda: self._lanes.unfinished <= besides, seconds)

    def cancel_all(self) -> None:
        """Cancel what is unfinished. May wait for the host to read the answers."""
        for job in self._lanes.jobs():
            if not job.work.control:
                self._cancel(job)

    def wait_settled(self, parked: Callable[[], int]) -> None:
        """Wait until whatever can go on has done so; ``parked`` tells how many jobs cannot."""
        self._lanes.wait_until(lambda: self._lanes.running() <= parked())

    def wake(self) -> None:
        """Look again whether it is settled."""
        with self._lanes.changed:
            self._lanes.changed.notify_all()

    # ---- inside: before it runs ----

    def _cancel(self, job: Job) -> None:
        job.token.cancel()
        if self._lanes.withdraw(job):
            job.give_up(CancelledError("cancelled while it was queued; it was not started"))

    def _answer_again(self, request: Incoming, work: Work) -> bool:
        body = body_of(work.action, request.data)
        with self._lock:
            frame = self._replay.find(request.request_id, body)
            if frame is not None:
                self._writer.batch(replayed_frame(frame))
                return True
            unanswered = self._unanswered.get(request.request_id)
            if unanswered is not None:
                if unanswered[0] != body:
                    raise duplicate(request.request_id)
                self._unanswered[request.request_id] = (body, unanswered[1] + 1)
                return True
        if work.changes:
            request.body = body
        return False

    def _refusal(self) -> WorkerError:
        if self._draining:
            return _shutting_down()
        message = f"as many requests are in flight as are admitted: {self.max_inflight}"
        return OverloadedError(message, max_inflight=self.max_inflight, retry_after_ms=_RETRY_AFTER_MS)

    def _enqueue(self, request: Incoming, work: Work, token: CancelToken) -> None:
        if token is self._never:
            token = CancelToken(self._clock.now_ns)
        if request.body is not None:
            with self._lock:
                self._unanswered[request.request_id] = (request.body, 0)

        def give_up(error: WorkerError) -> None:
            frame = self._error_frame(request, error)
            self._keep(request, frame)
            self._reply(request, frame)
            self._record(request, failed=True)

        def start(job: Job) -> None:
            self._hand_over(lambda: self._run_job(request, job), alone=work.control)

        job = Job(request.request_id, work, token, start, give_up)
        if not self._lanes.admit(job) and token.deadline_ns is not None:
            self._alarm.at(token.deadline_ns, lambda: self._shed(job))

    def _shed(self, job: Job) -> None:
        """Give up a job whose deadline passed in the queue."""
        if self._lanes.withdraw(job):
            job.give_up(DeadlineExceededError("the deadline passed while it was queued; it was not started"))

    # ---- inside: while it runs ----

    def _hand_over(self, task: Callable[[], None], *, alone: bool = False) -> None:
        """Give a task to the pool, or to a thread of its own where it waits for the others."""
        if alone:
            threading.Thread(target=task, daemon=True).start()
            return
        if self._threads < _POOL_THREADS:
            self._threads += 1
            threading.Thread(target=self._serve, name=f"pool-{self._threads}", daemon=True).start()
        self._queue.put(task)

    def _serve(self) -> None:
        while True:
            self._queue.get()()

    def _run_job(self, request: Incoming, job: Job) -> None:
        wanted = request.meta is not None and request.meta.progress
        report = self._reporter(request) if wanted else _no_report
        frame, answer = self._execute(request, job.work, job.token, report)
        self._lanes.answering(job)
        self._reply(request, frame)
        if answer is not None:
            self._after(request, answer)
        self._lanes.finish(job)

    def _quietly(self, job: Job) -> None:
        """Run work that nobody waits for. Its errors are where it keeps them; a bug is logged."""
        try:
            job.work.run(Call(job.token, _no_report))
        except WorkerError as error:
            log("info", "background work ended early", action=job.work.action, error=error.message)
        except Exception as error:  # noqa: BLE001 - a bug, and the worker goes on
            _log_bug(error, job.work.action, None)
        self._lanes.finish(job)

    def _execute(
        self, request: Incoming, work: Work, token: CancelToken, report: Callable[[int, int], None]
    ) -> tuple[bytes, Answer | None]:
        """Run work and make its reply. Every exception becomes one."""
        answer = None
        failed = True
        try:
            if token is not self._never:
                token.check()
            result = work.run(self._plain_call if token is self._never else Call(token, report))
            if type(result) is Answer:
                answer, result = result, result.result
            frame = success_frame(request.request_id, result)
            if len(frame) > self.max_frame_bytes:
                frame = self._error_frame(request, self._reply_too_large(len(frame)))
            else:
                failed = False
        except WorkerError as error:
            frame = self._error_frame(request, error)
            device_id = error.details.get("device_id")
            self._history.record_refusal(work.action, error.code, error.message, device_id)
        except Exception as error:  # noqa: BLE001 - a bug, and the worker goes on
            frame = self._error_frame(request, _log_bug(error, work.action, request.meta))
        if request.body is not None:
            self._keep(request, frame)
        self._record(request, failed=failed, action=work.action)
        return frame, answer

    def _keep(self, request: Incoming, frame: bytes) -> None:
        if request.body is not None:
            with self._lock:
                self._replay.keep(request.request_id, request.body, frame)

    # ---- inside: after it ran ----

    def _reply(self, request: Incoming, frame: bytes) -> None:
        repetitions = 0
        if request.body is not None:
            with self._lock:
                _, repetitions = self._unanswered.pop(request.request_id)
        self._writer.write(frame + replayed_frame(frame) * repetitions)

    def _after(self, request: Incoming, answer: Answer) -> None:
        if answer.background is not None:
            work = answer.background
            self.submit(work, request.request_id, work.abandoned or _nobody_waits)
        if answer.then is not None:
            answer.then()

    def _reporter(self, request: Incoming) -> Callable[[int, int], None]:
        """Return what sends a request's progress: the first at once, then at most ten a second."""
        sequence, sent_ns = 0, 0

        def report(completed: int, total: int) -> None:
            nonlocal sequence, sent_ns
            now = self._clock.now_ns()
            if sequence and now - sent_ns < _PROGRESS_INTERVAL_NS:
                return
            sequence, sent_ns = sequence + 1, now
            data = ProgressData(completed, total)
            self._writer.write(event_frame("progress", request.request_id, sequence, data))

        return report

    def _record(self, request: Incoming, *, failed: bool, action: str | None = None) -> None:
        name = request.action if action is None else action
        now = self._clock.now_ns()
        self._history.record_action(name, now, now - request.arrived_ns, failed=failed)

    def _error_frame(self, request: Incoming, error: WorkerError) -> bytes:
        return error_frame(request.request_id, error, self.max_frame_bytes)

    def _reply_too_large(self, size: int) -> FrameTooLargeError:
        message = f"the reply has {size} bytes, more than the {self.max_frame_bytes} of a frame"
        error = FrameTooLargeError(message, max_frame_bytes=self.max_frame_bytes, reply_bytes=size)
        error.executed = Executed.YES
        return error


def _shutting_down() -> ShuttingDownError:
    message = "the worker is shutting down and admits nothing new"
    return ShuttingDownError(message)


def _log_bug(error: Exception, action: str, meta: Meta | None) -> InternalError:
    error_id = uuid.uuid4().hex
    traceparent = None if meta is None else meta.traceparent
    text = "".join(traceback.format_exception(error))
    log("error", "a bug", error_id=error_id, action=action, traceparent=traceparent, traceback=text)
    return InternalError(f"a bug in the worker; the log has it under {error_id}", error_id=error_id)

"""One request's work done, and its reply made: whatever it raises, there is one, and it says what became of it."""

from collections.abc import Callable
from functools import partial
from typing import Any

from protocol.results import ProgressData
from protocol.vocabulary import ErrorCode, Executed
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS, Clock
from worker.core.errors import FrameTooLargeError, WorkerError
from worker.core.log import log, logs, note_request
from worker.core.records import no_report
from worker.core.shortages import RESERVE, patiently, shortage
from worker.metrics.history import History
from worker.stream.failures import wire_error
from worker.stream.frame_writer import FrameWriter
from worker.stream.frames import (
    Incoming,
    check_depth,
    error_frame,
    event_frame,
    success_frame,
    with_ignored,
)
from worker.stream.work import Answer, Call, Work

_PROGRESS_INTERVAL_NS = 100 * NS_PER_MS


class Executor:
    """Runs work, counts it, and makes frames. Thread-safe."""

    def __init__(self, writer: FrameWriter, clock: Clock, history: History, max_frame_bytes: int) -> None:
        self._writer = writer
        self._now_ns = clock.now_ns
        self._history = history
        self._max_frame_bytes = max_frame_bytes
        self._plain_call = Call(CancelToken(clock.now_ns), no_report)
        """Of what nothing cancels."""
        self._noted = logs("debug")

    # No closures here, nor in who calls it for every request: a name that one takes costs wherever it is used.

    def execute(self, request: Incoming, work: Work, call: Call | None) -> bytes:
        """Run work and make its reply; None calls what nothing cancels. Every exception becomes a reply.

        What follows the reply is noted in the request.
        """
        code: ErrorCode | None = None
        note_request(request.request_id, request.traceparent)
        try:
            if call is None:
                call = self._plain_call
            else:
                call.check()
            try:
                result = work.run(call)
            except (OSError, MemoryError) as error:
                result = self._again(work, call, error)
            if type(result) is Answer:
                request.follows, result = result, result.result
            try:
                frame = self._success(request, work, result)
            except MemoryError:  # it is done: only the telling is tried again
                frame = patiently(partial(self._success, request, work, result))
        except BaseException as error:  # noqa: BLE001 - a bug, short memory, a plugin's exit: the worker goes on
            frame, code = patiently(partial(self._failed, request, work, error))
        request.frame = frame
        self.record(request, failed=code is not None, action=work.action)
        if self._noted:
            log("debug", "request", action=work.action, code=code)
        note_request(None)
        return frame

    def _success(self, request: Incoming, work: Work, result: Any) -> bytes:
        """Make the reply of work that is done. FrameTooLargeError where it is larger than a frame may be."""
        frame = success_frame(request.request_id, result)
        if request.ignored is not None:
            frame = with_ignored(frame, request.ignored, self._max_frame_bytes)
        if work.plugin:
            check_depth(frame)
        if len(frame) > self._max_frame_bytes:
            raise self._reply_too_large(len(frame))
        return frame

    def _again(self, work: Work, call: Call, error: Exception) -> Any:
        """Ask a question that failed by a passing shortage once more, with what is held in reserve."""
        if work.changes or work.plugin or shortage(error) is None:
            raise error
        RESERVE.release()
        try:
            return work.run(call)
        finally:
            RESERVE.fill()

    def _failed(self, request: Incoming, work: Work, error: BaseException) -> tuple[bytes, ErrorCode]:
        wired = wire_error(error, work.action, request.traceparent, changes=work.changes)
        if error is wired:
            device_id = wired.details.get("device_id")
            self._history.record_refusal(work.action, wired.code, wired.message, device_id)
            log("debug", "refused", action=work.action, code=wired.code, reason=wired.message)
        return self.error_frame(request, wired), wired.code

    def reporter(self, request: Incoming) -> Callable[[int, int], None]:
        """Return what sends a request's progress: the first at once, then at most ten a second."""
        sequence, sent_ns = 0, 0

        def report(completed: int, total: int) -> None:
            nonlocal sequence, sent_ns
            now = self._now_ns()
            if sequence and now - sent_ns < _PROGRESS_INTERVAL_NS:
                return
            sequence, sent_ns = sequence + 1, now
            data = ProgressData(completed, total)
            self._writer.write(event_frame("progress", request.request_id, sequence, data))

        return report

    def record(self, request: Incoming, *, failed: bool, action: str | None = None) -> None:
        """Count a request. Its answer is made by then, so that what is short of memory here only goes uncounted."""
        try:
            now = self._now_ns()
            self._history.record_action(
                action or request.action, now, now - request.arrived_ns, failed=failed
            )
        except MemoryError:
            pass

    def error_frame(self, request: Incoming, error: WorkerError) -> bytes:
        """Make the reply of a request that failed."""
        frame = error_frame(request.request_id, error, self._max_frame_bytes)
        return (
            frame if request.ignored is None else with_ignored(frame, request.ignored, self._max_frame_bytes)
        )

    def _reply_too_large(self, size: int) -> FrameTooLargeError:
        message = f"the reply has {size} bytes, more than the {self._max_frame_bytes} of a frame"
        error = FrameTooLargeError(message, max_frame_bytes=self._max_frame_bytes, reply_bytes=size)
        error.executed = Executed.YES
        return error

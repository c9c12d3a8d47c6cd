"""The stream: bytes in, frames out, one reply a line, until the host is done or gone.

The main thread reads, and runs what is quick. Knows nothing of what an action means.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, Protocol

from worker.core.clock import FixedClock
from worker.core.errors import FrameTooLargeError, InternalError, OutOfMemoryError
from worker.core.events import Event
from worker.core.log import end_log, log
from worker.core.shortages import RESERVE, patiently, start_thread
from worker.core.sure_lock import SureEvent, SureLock
from worker.stream.failures import wire_error
from worker.stream.frame_writer import FrameWriter, is_gone
from worker.stream.frames import LineSplitter, Oversize, error_frame, find_request_id, read_request
from worker.stream.host_watch import HostWatch, watch_signals
from worker.stream.input import Input
from worker.stream.job_runner import JobRunner, Prepare

_DRAIN_SECONDS = 5.0
"""How long work may go on after SIGTERM or ``worker.shutdown`` before it is cancelled."""
_CANCEL_SECONDS = 2.0
"""How long cancelled work may take to notice before the process ends without it."""
_ORPHAN_SECONDS = 0.3
"""The same where no caller waits for an answer any more."""
_PATIENCE = {"SIGTERM": (_DRAIN_SECONDS, _CANCEL_SECONDS)}
_NO_PATIENCE = (0.0, _ORPHAN_SECONDS)
"""A terminal that was closed, or somebody at it, waits for nothing."""
_LOOK_SECONDS = 0.25
"""How often it is looked whether the output still has a reader."""
_CLOSE_SECONDS = 10.0
"""How long freeing everything may take before the process ends without it."""
_TRIES, _NO_MEMORY_SECONDS = 200, 0.01
_LOG_SECONDS = 0.5
"""How long the last lines of the log may take to be read."""
OUTPUT_LOST = 3
"""Exit status where replies could not be written, as where stdout is a file on a full disk."""
_HINT = """\
This worker reads JSON requests, one a line, and answers each on stdout. Try: {"request_id": "1", "action": "memory.get_status"}
Ctrl-D or Ctrl-C ends it; python -m worker --help tells more.
"""


class Subscription(Protocol):
    """Where the host's wish for events goes."""

    def subscribe(self, events: tuple[type[Event], ...]) -> None:
        """Send these from now on."""
        ...


class StdioLoop:
    """Reads requests, hands them to the runner, and ends the process in order."""

    def __init__(
        self,
        read_fd: int,
        writer: FrameWriter,
        runner: JobRunner,
        events: Subscription,
        due: tuple[Callable[[], None], ...],
        close: Callable[[], None],
        *,
        max_frame_bytes: int,
        fixed_clock: FixedClock | None = None,
    ) -> None:
        self.max_frame_bytes = max_frame_bytes
        self.max_inflight = runner.max_inflight
        self._read_fd = read_fd
        self._writer = writer
        self._runner = runner
        self._events = events
        self._due = due
        """Do what is due; with a fixed clock no threads of their own do."""
        self._close = close
        self._fixed_clock = fixed_clock
        self._host = HostWatch(lambda pid: self._end(f"host process {pid} is gone", 0, _ORPHAN_SECONDS))
        self._status = 0
        # The reading thread's: the lines that were read, the first one last, and what is done of that.
        self._lines: list[bytes | Oversize] = []
        self._failed: bytes | Oversize | None = None
        self._failure: BaseException = InternalError("")
        self._idle: list[Callable[[], object]] = []
        self._exiting = SureLock()
        self._turn = SureLock()
        """Held while lines are answered, so that the end comes between two of them."""

    def run(
        self,
        prepare: Prepare,
        once_answered: Callable[[], None] = lambda: None,
        while_idle: Callable[[], list[Callable[[], object]]] = list,
    ) -> None:
        """Serve until the end of input, with what turns requests into work; then finish what was asked.

        ``once_answered`` is called after the first lines: by then who sent them has its answers, if they are quick.
        What ``while_idle`` returns then is done one by one while no line waits, later where memory was short.
        """
        by_hand = os.isatty(self._read_fd)
        try:
            watch_signals(
                lambda name: self._end(name, *_PATIENCE.get(name, _NO_PATIENCE)), interruptible=by_hand
            )
        except OutOfMemoryError as error:
            log("warning", "signals end the worker without order", error=error.message)
        if by_hand:
            os.write(2, _HINT.encode())
        if self._fixed_clock is not None:
            self._fixed_clock.when_parked(self._runner.wake)
        self._read_all(prepare, once_answered, while_idle)
        self._runner.stop_admitting()
        # No limit: whoever pipes a file in wants all of it answered. But answers need a reader.
        while not self._runner.wait_for_all(_LOOK_SECONDS):
            if self._writer.reader_is_gone():
                self._end("end of input, and nobody reads", 0, _ORPHAN_SECONDS)
        self._exit("end of input", 0)

    # ---- what the worker's own actions ask for ----

    def cancel(self, request_id: str) -> Callable[[], None] | None:
        """Return what cancels a request that is queued or running; None if there is none."""
        return self._runner.cancel(request_id)

    def subscribe(self, events: tuple[type[Event], ...]) -> None:
        """Send these events from now on."""
        self._events.subscribe(events)

    def watch_host(self, pid: int) -> bool:
        """End as soon as that process does; what runs is cancelled, for no caller waits for it.

        False where it can't be seen from here: then the end of the input decides alone.
        """
        return self._host.watch(pid)

    def drain(self) -> int:
        """Admit nothing more, finish or cancel what runs. Returns how many requests that was."""
        self._runner.stop_admitting()
        if not self._runner.wait_for_all(_DRAIN_SECONDS, besides=1):
            self._runner.cancel_all()
            self._runner.wait_for_all(_CANCEL_SECONDS, besides=1)
        return self._runner.unfinished_at_shutdown

    def end(self) -> None:
        """Free everything and exit."""
        self._exit("worker.shutdown", _CANCEL_SECONDS)

    def output_lost(self, error: OSError) -> None:
        """End because nothing can be written any more."""
        reason = "the output is closed"
        if not is_gone(error):
            self._status = OUTPUT_LOST
            reason = f"the output cannot be written: {error}"
            log("error", "the output cannot be written: replies are lost", error=str(error))
        try:
            start_thread(lambda: self._end(reason, 0, _ORPHAN_SECONDS), "ending")
        except OutOfMemoryError:
            self._end(reason, 0, _ORPHAN_SECONDS)

    # ---- inside ----

    def _read_all(
        self,
        prepare: Prepare,
        once_answered: Callable[[], None],
        while_idle: Callable[[], list[Callable[[], object]]],
    ) -> None:
        """Answer every line until the end of the input: the guard of the reading thread.

        Whatever fails is done again from where it was: no line is lost, and none is answered twice.
        """
        stream, splitter = Input(self._read_fd), LineSplitter(self.max_frame_bytes)
        taken, tries = False, 0
        first = True
        while True:
            try:
                if stream.chunk is None:
                    self._use_idle_time(stream)
                    stream.fill()
                if not taken:
                    lines = splitter.feed(stream.chunk) if stream.chunk else splitter.close()
                    lines.reverse()
                    self._lines, taken = lines, True
                with self._turn:
                    self._answer_lines(prepare)
                if not stream.chunk:
                    return
                stream.chunk, taken = None, False
                if first:
                    first = False
                    once_answered()
                    self._idle = while_idle()
                tries = 0
            except MemoryError:
                RESERVE.release()
                tries = min(tries + 1, _TRIES)
                if tries == _TRIES:  # it does not pass: a line that is read may be what takes it all
                    splitter.give_up()
                    time.sleep(_NO_MEMORY_SECONDS)
            except BaseException as error:  # noqa: BLE001 - a bug: what comes next may be answered all the same
                wire_error(error, "reading", None)
                stream.chunk, taken = None, False

    def _use_idle_time(self, stream: Input) -> None:
        """Do what is left to do while no line waits."""
        idle = self._idle
        while idle and not stream.has_some():
            step = idle.pop()
            try:
                step()
            except MemoryError:
                idle.insert(0, step)  # another time
                break

    def _answer_lines(self, prepare: Prepare) -> None:
        """Answer what was read, the first line last in the list. MemoryError: called again, it goes on."""
        lines, accept, fixed_clock = self._lines, self._runner.accept, self._fixed_clock
        while True:
            if self._failed is not None:
                self._refuse(self._failed, self._failure)
                self._failed = None
            if not lines:
                break
            request = None
            try:
                while lines:
                    line, request = lines.pop(), None
                    if fixed_clock is not None:
                        self._settle(fixed_clock)
                    request = read_request(line) if type(line) is bytes else self._refuse_oversize(line)
                    if request is not None:
                        accept(request, prepare)
            except BaseException as error:  # noqa: BLE001 - whatever it was, this line gets its answer
                if request is None or not request.answered:
                    self._failed, self._failure = line, error
        self._writer.flush()

    def _refuse(self, line: bytes | Oversize, error: BaseException) -> None:
        """Answer a line that is no request."""
        head = line.head if isinstance(line, Oversize) else line

        def refuse() -> None:
            wired = wire_error(error, "a line", None)
            self._writer.batch(error_frame(find_request_id(head), wired, self.max_frame_bytes))

        patiently(refuse)

    def _refuse_oversize(self, line: "bytes | Oversize") -> NoReturn:
        if isinstance(line, Oversize) and line.no_memory:
            raise OutOfMemoryError("there is no memory for so long a line; try again", resource="memory")
        message = f"the line is longer than {self.max_frame_bytes} bytes; it was discarded"
        raise FrameTooLargeError(message, max_frame_bytes=self.max_frame_bytes)

    def _settle(self, clock: FixedClock) -> None:
        """With a fixed clock, one line is over before the next: order and figures are always the same."""
        self._writer.flush()
        self._runner.wait_settled(lambda: clock.parked)
        for run_due in self._due:
            run_due()
        self._runner.wait_settled(lambda: clock.parked)

    def _end(self, reason: str, grace_seconds: float, cancel_seconds: float) -> None:
        """Finish what runs, or cancel it, then end the process. Does not return."""
        self._runner.stop_admitting()
        if not self._runner.wait_for_all(grace_seconds):
            # By another thread: the host may not read the answers, and must not keep us by that.
            try:
                start_thread(self._runner.cancel_all, "cancelling")
            except OutOfMemoryError:
                log("warning", "no thread to cancel what runs", reason=reason)
            self._runner.wait_for_all(cancel_seconds)
        self._exit(reason, cancel_seconds)

    def _exit(self, reason: str, turn_seconds: float) -> None:
        if not self._exiting.acquire(blocking=False):
            SureEvent().wait()  # another thread is at it
        # What was accepted gets its answer first, unless there is no reader.
        self._turn.acquire(timeout=turn_seconds)
        log("info", "ending", reason=reason)
        with suppress(OutOfMemoryError):
            start_thread(self._exit_at_last, "at last")
        try:
            self._close()
        except BaseException as error:  # noqa: BLE001 - it ends all the same
            wire_error(error, "ending", None)
        finally:
            end_log(_LOG_SECONDS)
            # Not sys.exit: this may be any thread, and work that ignored its cancelling may be in others.
            os._exit(self._status)

    def _exit_at_last(self) -> None:
        """End although closing hangs: a device's process, or a disk."""
        SureEvent().wait(_CLOSE_SECONDS)
        log("error", "ending without having closed everything: something hangs", seconds=_CLOSE_SECONDS)
        end_log(_LOG_SECONDS)
        os._exit(self._status)

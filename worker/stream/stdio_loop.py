"""The stream: bytes in, frames out, one reply a line, until the host is done or gone.

The main thread reads, and runs what is quick. Knows nothing of what an action means.
"""

import os
import threading
from collections.abc import Callable
from typing import NoReturn

from worker.core.clock import FixedClock
from worker.core.errors import FrameTooLargeError, WorkerError
from worker.core.events import Event
from worker.core.log import log
from worker.stream.event_channel import EventChannel
from worker.stream.frame_writer import FrameWriter
from worker.stream.frames import LineSplitter, Oversize, error_frame, find_request_id, read_request
from worker.stream.host_watch import watch_process, watch_signals
from worker.stream.job_runner import JobRunner

_READ_BYTES, _READ_MORE_BYTES = 1 << 12, 1 << 16
"""Most reads are short, and making room for long ones costs as much as the read itself."""
_DRAIN_SECONDS = 5.0
"""How long work may go on after SIGTERM or ``worker.shutdown`` before it is cancelled."""
_CANCEL_SECONDS = 2.0
"""How long cancelled work may take to notice before the process ends without it."""
_ORPHAN_SECONDS = 0.3
"""The same where nobody waits for an answer any more."""
_LOOK_SECONDS = 0.25
"""How often it is looked whether the output still has a reader."""


class StdioLoop:
    """Reads requests, hands them to the runner, and ends the process in order."""

    def __init__(
        self,
        read_fd: int,
        writer: FrameWriter,
        runner: JobRunner,
        events: EventChannel,
        due: tuple[Callable[[], None], ...],
        close: Callable[[], None],
        *,
        max_frame_bytes: int,
        fixed_clock: FixedClock | None = None,
    ) -> None:
        self.max_frame_bytes = max_frame_bytes
        self.max_inflight = runner.max_inflight
        self._read_fd = read_fd
        self._read_bytes = _READ_BYTES
        self._writer = writer
        self._runner = runner
        self._events = events
        self._due = due
        """Do what is due; with a fixed clock no threads of their own do."""
        self._close = close
        self._fixed_clock = fixed_clock
        self._exiting = threading.Lock()
        self._turn = threading.Lock()
        """Held while lines are answered, so that the end comes between two of them."""

    def run(self, once_answered: Callable[[], None] | None = None) -> None:
        """Serve until the end of input, then finish what was asked.

        ``once_answered`` is called after the first lines: by then who sent them has its answers, if they are quick.
        """
        watch_signals(lambda: self._end("SIGTERM", _DRAIN_SECONDS, _CANCEL_SECONDS))
        if self._fixed_clock is not None:
            self._fixed_clock.when_parked(self._runner.wake)
        splitter = LineSplitter(self.max_frame_bytes)
        while chunk := self._read():
            self._answer(splitter.feed(chunk))
            if once_answered is not None:
                once_answered()
                once_answered = None
        self._answer(splitter.close())
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

    def watch_host(self, pid: int) -> None:
        """End as soon as that process does; what runs is cancelled, for nobody waits for it."""
        watch_process(pid, lambda: self._end(f"host process {pid} is gone", 0, _ORPHAN_SECONDS))

    def drain(self) -> int:
        """Admit nothing more, finish or cancel what runs. Returns how many requests that was."""
        unfinished = self._runner.stop_admitting() - 1
        if not self._runner.wait_for_all(_DRAIN_SECONDS, besides=1):
            self._runner.cancel_all()
            self._runner.wait_for_all(_CANCEL_SECONDS, besides=1)
        return unfinished

    def end(self) -> None:
        """Free everything and exit."""
        self._exit("worker.shutdown", _CANCEL_SECONDS)

    def host_gone(self) -> None:
        """End because nobody reads any more."""
        arguments = ("the output is closed", 0, _ORPHAN_SECONDS)
        threading.Thread(target=self._end, args=arguments, daemon=True).start()

    # ---- inside ----

    def _read(self) -> bytes:
        try:
            chunk = os.read(self._read_fd, self._read_bytes)
        except OSError as error:
            log("warning", "the input cannot be read", error=str(error))
            return b""
        self._read_bytes = _READ_MORE_BYTES if len(chunk) == self._read_bytes else _READ_BYTES
        return chunk

    def _answer(self, lines: list[bytes | Oversize]) -> None:
        with self._turn:
            for line in lines:
                self._accept(line)
            self._writer.flush()

    def _accept(self, line: bytes | Oversize) -> None:
        if self._fixed_clock is not None:
            self._writer.flush()
            self._settle(self._fixed_clock)
        try:
            request = read_request(line) if type(line) is bytes else self._refuse_oversize()
        except WorkerError as error:
            head = line.head if isinstance(line, Oversize) else line
            self._writer.batch(error_frame(find_request_id(head), error, self.max_frame_bytes))
            return
        if request is not None:
            self._runner.accept(request)

    def _refuse_oversize(self) -> NoReturn:
        message = f"the line is longer than {self.max_frame_bytes} bytes; it was discarded"
        raise FrameTooLargeError(message, max_frame_bytes=self.max_frame_bytes)

    def _settle(self, clock: FixedClock) -> None:
        """With a fixed clock, one line is over before the next: order and figures are always the same."""
        self._runner.wait_settled(lambda: clock.parked)
        for run_due in self._due:
            run_due()
        self._runner.wait_settled(lambda: clock.parked)

    def _end(self, reason: str, grace_seconds: float, cancel_seconds: float) -> None:
        """Finish what runs, or cancel it, then end the process. Does not return."""
        self._runner.stop_admitting()
        if not self._runner.wait_for_all(grace_seconds):
            # By another thread: the host may not read the answers, and must not keep us by that.
            threading.Thread(target=self._runner.cancel_all, daemon=True).start()
            self._runner.wait_for_all(cancel_seconds)
        self._exit(reason, cancel_seconds)

    def _exit(self, reason: str, turn_seconds: float) -> None:
        if not self._exiting.acquire(blocking=False):
            threading.Event().wait()  # another thread is at it
        # What was accepted gets its answer first, unless nobody reads it.
        self._turn.acquire(timeout=turn_seconds)
        log("info", "ending", reason=reason)
        try:
            self._close()
        finally:
            # Not sys.exit: this may be any thread, and work that ignored its cancelling may be in others.
            os._exit(0)

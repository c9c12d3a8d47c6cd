"""One live view at the other end of a socket: what it may ask, how fast, and how much waits for it."""

import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from worker.core.cancellation import CancelToken
from worker.core.clock import Clock
from worker.core.errors import FrameTooLargeError, InternalError, UnsupportedError, WorkerError
from worker.core.events import Event
from worker.core.log import log
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureCondition
from worker.stream.event_channel import Write
from worker.stream.frames import (
    LineSplitter,
    Oversize,
    compact,
    error_frame,
    find_request_id,
    read_request,
    success_frame,
    with_ignored,
)
from worker.stream.work import Answer, Call, Work

QUESTIONS = frozenset(
    {
        "memory.get_status", "memory.get_usage", "memory.get_allocations", "memory.get_pressure",
        "memory.get_model_status", "memory.model_status", "memory.get_analytics", "memory.analytics",
        "memory.get_metrics", "memory.get_optimization_recommendations", "memory.optimization_recs",
        "worker.hello", "worker.ping", "worker.subscribe",
    }
)  # fmt: skip
"""What may be asked here."""

MAX_REQUEST_BYTES = 64 * 1024
MAX_WAITING_BYTES = 8 * 2**20
"""A client for which more waits does not read."""
MAX_WAITING_FRAMES = 512
PER_SECOND = 50
"""Questions a second; a client that asks faster is answered at this pace."""
_PATIENCE_SECONDS = 10.0
_REPLY_BYTES = 16 * 2**20

Prepare = Callable[[str, dict[str, Any]], Work]


class Events(Protocol):
    """The events of one client."""

    def subscribe(self, events: tuple[type[Event], ...]) -> None:
        """Send these from now on."""
        ...


EventsT = TypeVar("EventsT", bound=Events)


class MonitorClient(Generic[EventsT]):
    """A connection. It is its own session: what a client asks for itself concerns no other."""

    max_frame_bytes = MAX_REQUEST_BYTES
    max_inflight = 1

    def __init__(
        self,
        connection: socket.socket,
        clock: Clock,
        events: Callable[[Write], EventsT],
        on_gone: "Callable[[MonitorClient[EventsT]], None]",
    ) -> None:
        self.events = events(self._put_made)
        self._connection = connection
        self._on_gone = on_gone
        self._call = Call(CancelToken(clock.now_ns), lambda _completed, _total: None)
        self._changed = SureCondition()
        # All mutable state: what waits to be sent, and whether that is over.
        self._outbox: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._closed = False

    def start(self, prepare: Prepare) -> None:
        """Answer until it goes."""
        start_thread(partial(self._read, prepare), "monitor-read")
        start_thread(self._write, "monitor-write")

    def close(self) -> None:
        """Let it go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)  # wakes both threads

    # ---- what the worker's own actions ask of a session ----

    def subscribe(self, events: tuple[type[Event], ...]) -> None:
        """Send these events from now on."""
        self.events.subscribe(events)

    @property
    def is_there(self) -> bool:
        """Whether it is still served."""
        return not self._closed

    def watch_host(self, pid: int) -> bool:
        """Refuse: a view that ends ends nothing else."""
        raise UnsupportedError("a live view has no host_pid: the worker does not end with it", host_pid=pid)

    def cancel(self, _request_id: str) -> Callable[[], None] | None:
        """Find nothing: it is no question."""
        return None

    def drain(self) -> int:
        """Refuse: it is no question."""
        raise UnsupportedError("a live view does not end the worker")

    def end(self) -> None:
        """Do nothing: a view does not end the worker."""

    # ---- in ----

    def _read(self, prepare: Prepare) -> None:
        splitter = LineSplitter(MAX_REQUEST_BYTES)
        due = time.monotonic()
        try:
            while not self._closed:
                chunk = self._connection.recv(1 << 14)
                for line in splitter.feed(chunk) if chunk else splitter.close():
                    due = max(
                        due + 1 / PER_SECOND, time.monotonic() - 1.0
                    )  # a second's worth may come at once
                    self._rest(due - time.monotonic())
                    frame, then = self._answer(line, prepare)
                    self._put_patiently(frame)
                    if then is not None:
                        then()
                if not chunk:  # who has no more to ask may still read
                    with self._changed:
                        self._changed.wait_for(lambda: self._closed or not self._outbox, _PATIENCE_SECONDS)
                    break
        except OSError:
            pass  # it went
        finally:
            self._on_gone(self)
            self.close()
            self._connection.close()

    def _rest(self, seconds: float) -> None:
        if seconds > 0:
            with self._changed:
                self._changed.wait_for(lambda: self._closed, seconds)

    def _answer(self, line: bytes | Oversize, prepare: Prepare) -> tuple[bytes, Callable[[], None] | None]:
        """Return the reply to a line, and what follows it; empty for a blank one."""
        request_id = None
        try:
            request = read_request(_fitting(line))
            if request is None:
                return b"", None
            request_id = request.request_id
            work = prepare(_question(request.action), request.data)
            result, then = work.run(self._call), None
            if isinstance(result, Answer):
                result, then = result.result, result.then
            frame = success_frame(request_id, result)
            if request.ignored is not None:
                frame = with_ignored(frame, request.ignored, _REPLY_BYTES)
            return frame, then  # noqa: TRY300 - what is above may fail, and what it made is returned
        except WorkerError as error:
            head = line.head if isinstance(line, Oversize) else line
            return error_frame(request_id or find_request_id(head), error, _REPLY_BYTES), None
        except Exception as error:  # noqa: BLE001 - a bug, and the worker goes on
            log("error", "a bug in answering a live view", error=repr(error))
            said = InternalError("a bug in the worker; the log has it")
            return error_frame(request_id, said, _REPLY_BYTES), None

    # ---- out ----

    def _put_patiently(self, frame: bytes) -> None:
        """Queue a reply once there is space; let the client go where it does not read for long."""
        with self._changed:
            if self._changed.wait_for(self._has_space, _PATIENCE_SECONDS):
                self._put(frame)
                return
        self.close()

    def _put_made(self, make: Callable[[], bytes], _size_bytes: int, _dropped: Callable[[], None]) -> None:
        """Queue an event, or let the client go where there is no space: its numbers would have a gap."""
        with self._changed:
            if self._has_space():
                self._put(make())
                return
        self.close()

    def _has_space(self) -> bool:
        few = len(self._outbox) < MAX_WAITING_FRAMES and self._waiting_bytes < MAX_WAITING_BYTES
        return self._closed or few

    def _put(self, frame: bytes) -> None:
        if frame and not self._closed:
            self._outbox.append(compact(frame))
            self._waiting_bytes += len(frame)
            self._changed.notify_all()

    def _write(self) -> None:
        try:
            self._write_all()
        except OSError:
            pass  # it went
        finally:
            self.close()

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._outbox or self._closed)
                if self._closed:
                    return
                frame = self._outbox[0]
            self._connection.sendall(frame)
            with self._changed:
                self._outbox.popleft()
                self._waiting_bytes -= len(frame)
                self._changed.notify_all()


def _fitting(line: bytes | Oversize) -> bytes:
    """Return a line that is not too long. FrameTooLargeError for one that is."""
    if isinstance(line, Oversize):
        message = f"the line is longer than {MAX_REQUEST_BYTES} bytes; it was discarded"
        raise FrameTooLargeError(message, max_frame_bytes=MAX_REQUEST_BYTES)
    return line


def _question(action: str) -> str:
    """Return an action that only asks. UnsupportedError for any other."""
    if action not in QUESTIONS:
        message = f"{action!r} is not among the questions that a live view may ask"
        raise UnsupportedError(message, action=action)
    return action

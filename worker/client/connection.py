"""One worker's lifetime as its host sees it: requests out, replies to whoever waits, events to whoever asked."""

import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from protocol.results import HelloResult
from protocol.vocabulary import DEFAULT_MAX_INFLIGHT, PROTOCOL_VERSION, Executed
from worker.client.calls import CallOptions, Receiver, Waiting, WorkerExitedError, within
from worker.client.process import WorkerProcess
from worker.client.values import read
from worker.core.errors import DeadlineExceededError
from worker.core.finite_json import json_of

_SHUTDOWN_SECONDS = 10.0
"""More than a worker takes to cancel what runs (7 s) after its input has ended."""
_PROMPTLY = CallOptions(deadline_ms=30_000)


class Connection:
    """A started worker. ``on_event``, and ``on_end`` with how it ended, are called by its reader: they must not wait.

    WorkerExitedError if its process does not start. Nothing is asked of it before ``introduce``, and it is to be closed.
    """

    hello: HelloResult
    """What it said of itself."""

    def __init__(
        self,
        command: Sequence[str],
        on_event: Callable[[dict[str, Any]], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._on_event = on_event
        self._on_end = on_end
        self._lock = threading.Lock()
        self._ids = map(str, itertools.count(1))
        # All mutable state: the calls on their way by request id, None once there is no worker any more.
        self._pending: dict[str, _Pending] | None = {}
        self._closed = False
        self._room = threading.BoundedSemaphore(DEFAULT_MAX_INFLIGHT)
        """One for each request that the worker admits at once: more would only be refused."""
        self.ended_at = 0.0
        """When it ended, by ``time.monotonic``; only of one that did."""
        self._process = WorkerProcess(command, self._take, self._ended)
        self.pid = self._process.pid

    def introduce(self) -> None:
        """Have it say what it is. WorkerExitedError where it ends; what it refuses with, as where it speaks another protocol."""
        asked = {"protocol_min": PROTOCOL_VERSION, "protocol_max": PROTOCOL_VERSION, "host_pid": os.getpid()}
        self.hello = read(HelloResult, self._ask("worker.hello", asked))
        self._answered_at = time.monotonic()
        for _ in range(DEFAULT_MAX_INFLIGHT - self.hello.limits.max_inflight):
            self._room.acquire()

    @property
    def lived_seconds(self) -> float:
        """For how long it was there to answer; only of one that was introduced, and ended."""
        return max(0.0, self.ended_at - self._answered_at)

    @property
    def alive(self) -> bool:
        """Whether calls can still be answered."""
        return self._pending is not None

    def send(self, action: str, data: dict[str, Any], options: CallOptions, receiver: Receiver) -> str:
        """Send a request; what becomes of it goes to ``receiver``. Returns its id.

        Waits while as many requests are on their way as the worker admits, and while it reads nothing: DeadlineExceededError after
        the call's own time. WorkerExitedError if it is gone; TypeError or ValueError for what is no JSON, and TypeError for options that are not
        ``CallOptions``.
        """
        return self._send(action, data, options, _Pending(receiver, self._room))

    def _send(self, action: str, data: dict[str, Any], options: CallOptions, pending: "_Pending") -> str:
        request_id = next(self._ids)
        line = json_of(
            {"request_id": request_id, "action": action, "data": data, "meta": _meta(options)},
            orjson.OPT_APPEND_NEWLINE,
        )  # what can't be sent fails here, and takes no other call's turn
        pending.wait_for_room(options)
        with self._lock:
            if self._pending is None:
                pending.leave()
                message = "the worker is gone"
                raise WorkerExitedError(message, Executed.NO)
            self._pending[request_id] = pending
        try:
            self._process.send(line, within(options))
        except TimeoutError:
            with self._lock:
                unsent = (self._pending or {}).pop(request_id, None)
            if unsent is not None:
                unsent.leave()
            message = f"not sent within its {options.deadline_ms} ms: the worker reads nothing"
            raise DeadlineExceededError(message) from None
        except (OSError, ValueError):
            pass  # it is ending: the reader tells every call on its way
        return request_id

    def cancel(self, request_id: str) -> None:
        """Ask the worker to cancel a call; it is answered all the same, as cancelled or done.

        The worker takes that however many requests are on their way, and so does this.
        """
        if self.alive:
            self._send("worker.cancel", {"request_id": request_id}, CallOptions(), _Pending(_Ignored(), None))

    def subscribe(self, names: tuple[str, ...], figures_every_ms: int | None) -> None:
        """Have these events sent from now on, and no others; figures so often, None where they are not among them.

        InvalidRequestError for one that is unknown.
        """
        paced = {} if figures_every_ms is None else {"figures_every_ms": figures_every_ms}
        self._ask("worker.subscribe", {"events": names} | paced)

    def close(self) -> None:
        """End the worker: it answers what it was asked, frees everything and exits. Idempotent."""
        self._closed = True
        self._process.end(_SHUTDOWN_SECONDS)

    # ---- by the reader ----

    def _take(self, line: bytes) -> None:
        try:
            message = orjson.loads(line)
        except orjson.JSONDecodeError:
            return  # not the worker's: it writes nothing but frames
        if not isinstance(message, dict):
            return  # nor is this
        request_id: Any = message.get("request_id")
        if "event" in message:
            pending = (self._pending or {}).get(request_id)
            if pending is not None:
                data = message.get("data", {})
                pending.receiver.progress(data.get("completed_bytes", 0), data.get("total_bytes", 0))
            elif request_id is None:
                self._on_event(message)
            return
        with self._lock:
            pending = (self._pending or {}).pop(request_id, None)
        if pending is not None:
            pending.leave()
            pending.receiver.reply(message)

    def _ended(self) -> None:
        self.ended_at = time.monotonic()
        with self._lock:
            left, self._pending = self._pending or {}, None
        how = "the client was closed" if self._closed else self._process.obituary(_SHUTDOWN_SECONDS)
        for pending in left.values():
            pending.leave()
            pending.receiver.lost(WorkerExitedError(how))
        if not self._closed:
            self._on_end(how)

    def _ask(self, action: str, data: dict[str, Any]) -> dict[str, Any]:
        waiting = Waiting()
        self.send(action, data, _PROMPTLY, waiting)
        return waiting.wait(_PROMPTLY)


class _Pending:
    """A call on its way: who hears of it, and of what it takes one while it is; None for what the worker always admits."""

    def __init__(self, receiver: Receiver, room: threading.BoundedSemaphore | None) -> None:
        self.receiver = receiver
        self._room = room

    def wait_for_room(self, options: CallOptions) -> None:
        """Wait until the worker admits it. DeadlineExceededError: it was not sent."""
        if self._room is not None and not self._room.acquire(timeout=within(options)):
            message = f"not sent within its {options.deadline_ms} ms: as many calls are on their way as the worker admits"
            raise DeadlineExceededError(message)

    def leave(self) -> None:
        """Let another one be sent."""
        if self._room is not None:
            self._room.release()


class _Ignored:
    """Takes what nobody waits for."""

    def progress(self, completed: int, total: int) -> None:
        pass

    def reply(self, message: dict[str, Any]) -> None:
        pass

    def lost(self, error: WorkerExitedError) -> None:
        pass


def _meta(options: object) -> dict[str, Any]:
    if not isinstance(options, CallOptions):
        message = f"options= takes CallOptions, how the call is handled, not {type(options).__name__}; a store's own options are options_="
        raise TypeError(message)
    meta: dict[str, Any] = {}
    if options.deadline_ms is not None:
        meta["deadline_ms"] = options.deadline_ms
    if options.progress is not None:
        meta["progress"] = True
    if options.traceparent is not None:
        meta["traceparent"] = options.traceparent
    return meta

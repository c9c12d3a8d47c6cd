"""A node's own worker: an ordinary process, asked through the client, and what each gateway has there."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from math import inf
from typing import Any

import orjson

from protocol.actions import ACTIONS
from protocol.vocabulary import FIGURES_EVERY_MS, ErrorCode, Executed
from worker.client.calls import CallOptions, Waiting, WorkerExitedError
from worker.client.connection import Connection
from worker.client.events import Event
from worker.client.workers import Workers
from worker.core.errors import DeadlineExceededError, WorkerError
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureLock
from worker.fleet.possessions import Possessions

Message = dict[str, Any]
"""A reply as the worker sent it, or made as it would have."""

_SPARE_CALLS = 16
"""Of what the worker admits at once, so many are left to what the node asks itself."""
_RESTART_SECONDS, _LOOK_SECONDS = 10.0, 0.05
"""How long a request waits for a worker that is being started again, and how often it looks."""
_ASK_MS = 2_000
_BRIEFLY = CallOptions(deadline_ms=50)
UNDONE = {"memory.allocate": Executed.NO, "memory.load_model": Executed.NO, "memory.deallocate": Executed.YES}
"""What became of a request whose worker died under it: what was made went with it, and what was to be freed, too."""


class NodeWorker:
    """Starts the worker, and again where it dies. ``on_change`` is called, by any thread, whenever its view may be another.

    Raises WorkerExitedError, with the worker's last words, where it does not start.
    """

    def __init__(self, options: tuple[str, ...], on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._lock = SureLock()
        # All mutable state: calls on their way, what gateways have, events that were not told yet, which worker it is,
        # and how long there was none before it.
        self._calls: dict[str, tuple[Connection, str]] = {}
        self.possessions = Possessions()
        self._events: list[tuple[str, Any]] = []
        self.incarnation = ""
        self.down_ms = 0.0
        self._closed = False
        self._known: Connection | None = None
        self._workers = Workers(options, None, restart=True, on_exit=self._exited)
        self._subscription = self._workers.subscribe((), FIGURES_EVERY_MS)
        self._take_over()
        start_thread(self._follow, "fleet-node-events")

    @property
    def connection(self) -> Connection | None:
        """The running worker; None while it is being started again."""
        running = self._workers.running
        return running if running is self._known else None

    # ---- requests, on the actor's loop ----

    async def call(
        self, call_id: str, action: str, data: dict[str, Any], options: CallOptions, gateway: str
    ) -> tuple[Message, str]:
        """Ask the worker, and return its reply whatever that is, and which start of it that is from; empty for none.

        What only asks is asked again where a worker died under it.
        """
        asks_only = action in ACTIONS and not ACTIONS[action].changes
        while True:
            connection = await self._await_worker()
            if connection is None:
                return refusal("its worker is being started again", Executed.NO), ""
            if len(self._calls) >= connection.hello.limits.max_inflight - _SPARE_CALLS:
                return _overloaded(connection.hello.limits.max_inflight), ""
            incarnation = self.incarnation
            receiver = _Reply(asyncio.get_running_loop(), options)
            try:
                request_id = connection.send(action, data, options, receiver)
                self._calls[call_id] = (connection, request_id)
                message = await receiver.answer
            except DeadlineExceededError as error:  # it reads nothing
                return refusal(error.message, Executed.NO, ErrorCode.DEADLINE_EXCEEDED), ""
            except WorkerExitedError as error:
                if asks_only or error.executed is Executed.NO:
                    continue
                return refusal(str(error).partition(";")[0], UNDONE.get(action, Executed.UNKNOWN)), ""
            finally:
                self._calls.pop(call_id, None)
            if message.get("success") is True:
                self.possessions.note(gateway, action, data, message.get("data") or {})
                if not asks_only:
                    self._on_change()
            return message, incarnation

    async def ping(self) -> None:
        """Wait until the worker answers, or is gone."""
        receiver = _Reply(asyncio.get_running_loop(), _BRIEFLY)
        while (connection := self.connection) is not None:
            try:
                connection.send("worker.ping", {}, _BRIEFLY, receiver)
                await receiver.answer
            except DeadlineExceededError:  # it reads nothing
                await asyncio.sleep(_LOOK_SECONDS)
            except WorkerExitedError:
                return
            else:
                return

    def cancel(self, call_id: str) -> None:
        """Have a call cancelled; it is answered all the same, as cancelled or done."""
        found = self._calls.get(call_id)
        if found is not None:
            with contextlib.suppress(WorkerExitedError):
                found[0].cancel(found[1])

    # ---- by the node itself, on threads of its own ----

    def ask(
        self, action: str, data: dict[str, Any] | None = None, deadline_ms: int = _ASK_MS
    ) -> dict[str, Any]:
        """Ask the worker and wait. Raises what it refuses with, WorkerExitedError where it is gone."""
        connection = self.connection
        if connection is None:
            message = "its worker is being started again"
            raise WorkerExitedError(message, Executed.NO)
        options, waiting = CallOptions(deadline_ms=deadline_ms), Waiting()
        connection.send(action, data or {}, options, waiting)
        return waiting.wait(options)

    def restart(self) -> bool:
        """Start the worker again where it died. Returns whether there is one; one that dies at its start is waited with."""
        if self.connection is None and not self._closed:
            with contextlib.suppress(WorkerExitedError):
                self._workers.connection()
                self._take_over()
        return self.connection is not None

    def take_events(self) -> list[tuple[str, Any]]:
        """Return what the worker told since the last time, as it is on the wire: names and data."""
        with self._lock:
            taken, self._events = self._events, []
        return taken

    def put_back(self, events: list[tuple[str, Any]]) -> None:
        """Keep events that could not be told, before those that came since; the oldest beyond 4,096 go."""
        with self._lock:
            self._events = [*events, *self._events][-4096:]

    def release(self, gateway: str, *, leased_too: bool, until: float = inf) -> None:
        """Free what a gateway has here; what is leased only where it said itself that it is done.

        Where something can't be freed just now, or it is ``until`` by ``time.monotonic``, the rest stays the gateway's, for
        the next time.
        """
        allocations, consumers = self.possessions.of(gateway, leased_too=leased_too)
        work = [("memory.deallocate", {"allocation_id": each, "force": True}) for each in allocations]
        work += [("memory.unregister_consumer", {"consumer_id": each}) for each in consumers]
        for action, data in work:
            try:
                self.ask(action, data)
            except WorkerExitedError:
                break  # all of it goes with the worker
            except WorkerError as error:
                if error.retryable:
                    break
            self.possessions.note(gateway, action, {}, data)
            if time.monotonic() >= until:
                break
        if work:
            self._on_change()

    def close(self) -> None:
        """End the worker: it frees everything. Idempotent."""
        self._closed = True
        self._workers.close()

    # ---- inside ----

    async def _await_worker(self) -> Connection | None:
        for _ in range(round(_RESTART_SECONDS / _LOOK_SECONDS)):
            if self.connection is not None or self._closed:
                break
            await asyncio.sleep(_LOOK_SECONDS)
        return self.connection

    def _take_over(self) -> None:
        """Note that another worker runs, which holds nothing."""
        self.possessions.clear()
        before = int(self.incarnation.partition("-")[0] or "0", 16)
        started = max(
            time.time_ns(), before + 1
        )  # a clock that is set back makes no later worker an earlier one
        self.incarnation = f"{started:016x}-{secrets.token_hex(4)}"
        if self._known is not None:
            self.down_ms = (time.monotonic() - self._known.ended_at) * 1000
        self._known = self._workers.running
        self._on_change()

    def _exited(self, _how: str) -> None:
        self._on_change()

    def _follow(self) -> None:
        for event in self._subscription:
            self._take(event)

    def _take(self, event: Event) -> None:
        data = orjson.loads(orjson.dumps(event.data))
        if event.name == "memory.allocation_expired":
            self.possessions.expired(data.get("allocation_id"))
        with self._lock:
            self._events = [*self._events[-4095:], (event.name, data)]
        self._on_change()


class _Reply:
    """The receiver of a coroutine that waits for the reply as it is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: CallOptions) -> None:
        self._loop = loop
        self._options = options
        self.answer: asyncio.Future[Message] = loop.create_future()

    def progress(self, completed: int, total: int) -> None:
        if self._options.progress is not None:
            self._loop.call_soon_threadsafe(self._options.progress, completed, total)

    def reply(self, message: Message) -> None:
        self._settle(lambda: self.answer.set_result(message))

    def lost(self, error: WorkerExitedError) -> None:
        self._settle(lambda: self.answer.set_exception(error))

    def _settle(self, settle: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(lambda: None if self.answer.done() else settle())


def refusal(why: str, executed: Executed, code: ErrorCode = ErrorCode.DEVICE_UNAVAILABLE) -> Message:
    """Make the reply of a request that the node answers in its worker's place."""
    body: Message = {
        "code": code.value,
        "message": why,
        "executed": executed.value,
        "retryable": True,
        "details": {},
    }
    return {"success": False, "error": body}


def _overloaded(most: int) -> Message:
    message = refusal(
        f"as many requests are in flight there as are admitted: {most}", Executed.NO, ErrorCode.OVERLOADED
    )
    message["error"]["details"] = {"max_inflight": most, "retry_after_ms": 100}
    return message

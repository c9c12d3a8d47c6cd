"""The client for asyncio: every action of the contract as a coroutine."""

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from protocol.results import HelloResult
from protocol.vocabulary import FIGURES_EVERY_MS, EventName
from worker.client.actions import AsyncActions
from worker.client.calls import LEFT_OUT, CallOptions, WorkerExitedError, data_of, no_answer, patience_of
from worker.client.connection import Connection
from worker.client.events import Event
from worker.client.values import read
from worker.client.workers import Workers

_DEFAULT = CallOptions()
_SENDERS = 8
"""Threads that write requests: a write waits while the worker admits no more, which must not hold up the loop."""

R = TypeVar("R")


class AsyncClient(AsyncActions):
    """A worker and everything that can be asked of it, on one event loop.

    A refusal is the worker's own error class (``worker.errors``); WorkerExitedError where the process ended.
    Cancelling a call's task cancels it at the worker.
    """

    def __init__(self, workers: Workers, options: CallOptions = _DEFAULT) -> None:
        self._workers = workers
        self._options = options
        self._senders = concurrent.futures.ThreadPoolExecutor(_SENDERS, "memory-worker-send")

    @property
    def hello(self) -> HelloResult:
        """What the running worker said of itself: version, actions, limits."""
        return self._workers.connection().hello

    async def call(
        self, action: str, data: dict[str, Any], options: CallOptions | None = None
    ) -> dict[str, Any]:
        """Send any action, a plugin's for example. Returns the reply's ``data`` as it came."""
        chosen = self._options if options is None else options
        self._workers.check_process()
        loop = asyncio.get_running_loop()
        receiver = _OnLoop(loop, chosen)
        sending = loop.run_in_executor(self._senders, self._workers.send, action, data, chosen, receiver)
        try:
            connection, request_id = await asyncio.shield(sending)
        except asyncio.CancelledError:
            sending.add_done_callback(_cancel_when_sent)
            raise
        try:
            async with asyncio.timeout(patience_of(chosen)):
                return data_of(await receiver.answer)
        except TimeoutError:
            raise no_answer(chosen) from None
        except asyncio.CancelledError:
            await asyncio.shield(loop.run_in_executor(self._senders, connection.cancel, request_id))
            raise

    @asynccontextmanager
    async def events(
        self, *names: EventName | str, figures_every_ms: int = FIGURES_EVERY_MS
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Subscribe to events as ``Client.events`` does: ``async with … as events: async for …``."""
        loop = asyncio.get_running_loop()
        events = await loop.run_in_executor(self._senders, self._workers.subscribe, names, figures_every_ms)

        async def each() -> AsyncIterator[Event]:
            while (event := await asyncio.to_thread(next, events, None)) is not None:
                yield event

        try:
            yield each()
        finally:
            await loop.run_in_executor(self._senders, events.close)

    async def aclose(self) -> None:
        """End the worker: it answers what it was asked, frees everything and exits. Idempotent."""
        await asyncio.to_thread(self._workers.close)
        self._senders.shutdown(wait=False)

    async def _call(self, action: str, kind: type[R], data: dict[str, Any], options: CallOptions | None) -> R:
        sent = {name: value for name, value in data.items() if value is not LEFT_OUT}
        found: R = read(kind, await self.call(action, sent, options))
        return found


def _cancel_when_sent(sending: "asyncio.Future[tuple[Connection, str]]") -> None:
    if not sending.cancelled() and sending.exception() is None:
        connection, request_id = sending.result()
        connection.cancel(request_id)


class _OnLoop:
    """The receiver of a coroutine."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: CallOptions) -> None:
        self._loop = loop
        self._options = options
        self.answer: asyncio.Future[dict[str, Any]] = loop.create_future()

    def progress(self, completed: int, total: int) -> None:
        if self._options.progress is not None:
            self._loop.call_soon_threadsafe(self._options.progress, completed, total)

    def reply(self, message: dict[str, Any]) -> None:
        self._settle(lambda: self.answer.set_result(message))

    def lost(self, error: WorkerExitedError) -> None:
        self._settle(lambda: self.answer.set_exception(error))

    def _settle(self, settle: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(lambda: None if self.answer.done() else settle())


@asynccontextmanager
async def connect_async(
    *options: str, command: Sequence[str] | None = None, call: CallOptions = _DEFAULT, restart: bool = True,
    on_exit: Callable[[str], object] | None = None,
) -> AsyncIterator[AsyncClient]:  # fmt: skip
    """Start a worker as ``connect`` does, for ``async with``; its end ends the worker."""
    workers = await asyncio.to_thread(Workers, options, command, restart=restart, on_exit=on_exit)
    client = AsyncClient(workers, call)
    try:
        yield client
    finally:
        await client.aclose()

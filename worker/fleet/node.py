"""The actor of a node: owns its worker, tells the directory what changed, and admits what is placed there."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import psutil
import ray

from worker.client.calls import CallOptions, WorkerExitedError
from worker.core.errors import WorkerError
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureCondition
from worker.fleet.changes import EVERY_NS, Outbox
from worker.fleet.node_worker import Message, NodeWorker
from worker.fleet.observing import Observer
from worker.fleet.order import Order
from worker.fleet.pace import Pace
from worker.fleet.pieces import read_piece, write_piece
from worker.fleet.views import NodeChange, NodeView
from worker.fleet.words import (
    DIRECTORY,
    GATEWAY_SECONDS,
    LEASE_SECONDS,
    LOOK_SECONDS,
    NAMESPACE,
    Answered,
    Guard,
    Heard,
    Place,
    Told,
)
from worker.stream.failures import wire_error

T = TypeVar("T")
_HIDING = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ONEAPI_DEVICE_SELECTOR",
)
"""What says which devices a process sees."""
Meta = dict[str, Any]
"""As a request's ``meta``: ``deadline_ms``, ``traceparent``."""


class Node:
    """One node. Its methods run on one loop; telling the directory has a thread of its own."""

    def __init__(self, node_id: str, options: tuple[str, ...], folder: str | None, actor_name: str) -> None:
        _show_all_devices()
        if folder is not None and os.path.isdir(folder):  # noqa: PTH112 - before anything else
            os.chdir(folder)  # options may name files from there
        self._node_id = node_id
        self._actor_name = actor_name
        self._options = options
        self._changed = SureCondition()
        # All mutable state: whether there is something to tell, what was told last, and until when it counts.
        self._dirty = True
        self._draining = False
        self._view: NodeView | None = None
        self._outbox, self._building = Outbox(), False
        self._lease_until = 0.0
        self._used_at = time.monotonic()
        self._order, self._pace = Order(), Pace()
        self._observer: Observer | None = None
        self._worker = NodeWorker(options, self._note_change)
        start_thread(self._tell_for_ever, "fleet-node-tell")

    # ---- requests ----

    async def hello(self) -> dict[str, Any]:
        """Say what runs here: options, the worker's actions, the process, the limits."""
        connection = self._worker.connection
        hello = None if connection is None else connection.hello
        return {
            "options": self._options,
            "pid": os.getpid(),
            "worker_pid": None if connection is None else connection.pid,
            "version": None if hello is None else hello.worker_version,
            "actions": () if hello is None else hello.actions,
        }

    async def call(
        self, place: Place, call_id: str, action: str, data: dict[str, Any], meta: Meta
    ) -> Message:
        """Ask the worker. Returns its reply."""
        return await self._call(place, call_id, action, data, _options(meta))

    async def call_with_progress(
        self, place: Place, call_id: str, action: str, data: dict[str, Any], meta: Meta
    ) -> AsyncIterator[tuple[int, int] | Message]:
        """Ask the worker: its progress as (completed bytes, total bytes), and its reply at last."""
        async for each in _telling(lambda options: self._call(place, call_id, action, data, options), meta):
            yield each

    async def place(
        self, place: Place, call_id: str, guard: Guard, action: str, data: dict[str, Any], meta: Meta
    ) -> Answered:
        """Ask the worker for something that was placed here, unless what that was decided by is not so any more."""
        return await self._place(place, call_id, guard, action, data, _options(meta))

    async def place_with_progress(
        self, place: Place, call_id: str, guard: Guard, action: str, data: dict[str, Any], meta: Meta
    ) -> AsyncIterator[tuple[int, int] | Answered]:
        """Do the same, and tell how far it has come."""
        async for each in _telling(
            lambda options: self._place(place, call_id, guard, action, data, options), meta
        ):
            yield each

    async def cancel(self, call_id: str) -> None:
        """Have a call cancelled."""
        self._worker.cancel(call_id)

    async def drain(self, *, draining: bool) -> None:
        """Place nothing more here; or again."""
        self._draining = draining
        self._note_change()

    async def read_piece(self, allocation_id: str, offset: int, length: int) -> tuple[bytes, bytes]:
        """Return a piece of a shared allocation, and its SHA-256."""
        return await asyncio.to_thread(read_piece, self._worker.ask, allocation_id, offset, length)

    async def write_piece(self, allocation_id: str, offset: int, piece: bytes) -> bytes:
        """Write a piece of a shared allocation. Returns the SHA-256 of what is there then."""
        return await asyncio.to_thread(write_piece, self._worker.ask, allocation_id, offset, piece)

    async def leave(self, gateway: str) -> None:
        """Free everything that a gateway has, which ends in order."""
        await asyncio.to_thread(self._worker.release, gateway, leased_too=True)

    async def close(self) -> None:
        """End the worker: it frees everything."""
        await asyncio.to_thread(self._worker.close)

    async def watch(self) -> None:
        """Return never: whoever waits for it learns of the end of this process."""
        await asyncio.Event().wait()

    # ---- inside ----

    async def _call(
        self, place: Place, call_id: str, action: str, data: dict[str, Any], options: CallOptions
    ) -> Message:
        await self._order.reach(place)
        return await self._worker.call(call_id, action, data, options, place.gateway)

    async def _place(
        self,
        place: Place,
        call_id: str,
        guard: Guard,
        action: str,
        data: dict[str, Any],
        options: CallOptions,
    ) -> Answered:
        await self._order.reach(place)
        refused, view = self._why_not(guard)
        if refused is not None:
            return Answered(None, refused, self._worker.incarnation, self._outbox.next_revision - 1, view)
        with self._working(call_id, guard.model_id, place.gateway) as done:
            message = await self._worker.call(call_id, action, data, options, place.gateway)
            done.append(message.get("success") is True)
        return Answered(message, None, self._worker.incarnation, self._shown_at())

    @contextlib.contextmanager
    def _working(self, call_id: str, model_id: str | None, gateway: str) -> Iterator[list[bool]]:
        """Count a call that works with a model while it is under way; true is added where it succeeded."""
        done = list[bool]()
        if model_id is None:
            yield done
            return
        self._pace.begin(call_id, gateway, model_id)
        self._note_change()
        try:
            yield done
        finally:
            self._pace.end(call_id, done=done == [True])
            self._note_change()

    def _why_not(self, guard: Guard) -> tuple[str | None, NodeView | None]:
        if time.monotonic() >= self._lease_until:
            return "it has not reached the directory for a lease, and so admits nothing that is placed", None
        if self._draining:
            return "it is draining", None
        view = self._view
        if view is not None and (guard.incarnation, guard.revision) != (view.incarnation, view.revision):
            return f"revision {guard.revision} is past: it is at {view.revision}", view
        return None, None

    def _shown_at(self) -> int:
        """Return the revision of the first view that is made from here on."""
        with self._changed:
            return self._outbox.next_revision + self._building

    def _note_change(self) -> None:
        with self._changed:
            self._dirty = True
            self._changed.notify_all()

    def _tell_for_ever(self) -> None:
        """Look at the worker and tell the directory: the guard of this thread."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._dirty, LOOK_SECONDS)
                self._dirty = False
            try:
                if self._worker.restart():
                    self._tell()
            except (WorkerError, WorkerExitedError, ray.exceptions.RayError, ValueError):
                pass  # it is asked, or told, again
            except Exception as error:  # noqa: BLE001 - a bug: the thread must not end, or nothing is placed here any more
                wire_error(error, "telling the directory", None)
            time.sleep(EVERY_NS / 1e9)

    def _tell(self) -> None:
        """Tell what is different by now. What can't be told is told again, whole."""
        sent_at = time.monotonic()
        said, events = self._look(), self._worker.take_events()
        if said is None and not events:
            return
        try:
            directory = ray.get_actor(DIRECTORY, NAMESPACE)
            told = Told(self._node_id, said, tuple(events))
            heard: Heard = ray.get(directory.tell.remote(told), timeout=LEASE_SECONDS)
        except BaseException:
            self._worker.put_back(events)
            self._tell_whole()
            raise
        if heard.refused is not None or not heard.known:
            self._worker.put_back(events)
            self._tell_whole()
            return
        if said is not None:
            self._lease_until = sent_at + LEASE_SECONDS
        self._heed(heard.gateways)

    def _look(self) -> NodeView | NodeChange | None:
        """Look at the worker. Returns what is to be told of it."""
        with self._changed:
            self._building = True
        try:
            worker, observer = self._worker, self._observer
            if observer is None or observer.incarnation != worker.incarnation:
                observer = self._observer = Observer(self._node_id, worker.incarnation, self._pace)
            now = observer.observe(worker.ask, draining=self._draining, down_ms=worker.down_ms)
        finally:
            with self._changed:
                self._building = False
        with self._changed:
            said = self._outbox.next_message(now, time.monotonic_ns())
            if said is not None:
                self._view = replace(now, revision=said.revision)
        return said

    def _tell_whole(self) -> None:
        with self._changed:
            self._outbox.forget()
            self._dirty = True

    def _heed(self, gateways: tuple[str, ...] | None) -> None:
        """Free what gateways have that are gone, but what is leased; end where none is left and no lease is."""
        if gateways is None:
            return
        for each in self._worker.possessions.gateways() - frozenset(gateways):
            self._worker.release(each, leased_too=False)
        now = time.monotonic()
        if gateways:
            self._used_at = now
        if self._used_at + GATEWAY_SECONDS < now and not self._worker.possessions.any_leased():
            self._worker.close()
            ray.kill(ray.get_actor(self._actor_name, NAMESPACE))


def _show_all_devices() -> None:
    """Undo what Ray does to a process that it gives no GPU: a worker has all that its machine has, and accounts for them."""
    given: dict[str, str] = {}
    with contextlib.suppress(psutil.Error):
        given = psutil.Process(os.getppid()).environ()  # Ray's own process of this node, as it was started
    for name in _HIDING:
        if name in given:
            os.environ[name] = given[name]
        else:
            os.environ.pop(name, None)


async def _telling(
    ask: Callable[[CallOptions], Coroutine[Any, Any, T]], meta: Meta
) -> AsyncIterator[tuple[int, int] | T]:
    """Give what a call tells of its progress, and at last what it ends with."""
    inbox: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
    asking = asyncio.ensure_future(
        ask(_options(meta, lambda completed, total: inbox.put_nowait((completed, total))))
    )
    asking.add_done_callback(lambda _: inbox.put_nowait(None))
    while (step := await inbox.get()) is not None:
        yield step
    yield await asking


def _options(meta: Meta, progress: Any = None) -> CallOptions:
    return CallOptions(meta.get("deadline_ms"), progress, meta.get("traceparent"))

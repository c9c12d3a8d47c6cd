"""The actor of a node: owns its worker, hands it what gateways ask, and admits what is placed there."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psutil
import ray

from protocol.actions import ACTIONS
from worker.client.calls import CallOptions
from worker.fleet.node_worker import Message, NodeWorker
from worker.fleet.order import Order
from worker.fleet.pace import Pace
from worker.fleet.pieces import read_piece, write_piece
from worker.fleet.telling import Telling
from worker.fleet.words import GATEWAY_SECONDS, LOOK_SECONDS, NAMESPACE, Answered, Asked, packed, unpacked

_HIDING = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ONEAPI_DEVICE_SELECTOR",
)
"""What says which devices a process sees."""
_MOVE_LITTLE = {"memory.deallocate", "memory.renew_lease"}
"""What makes nothing different but bytes that are free again, or not even that."""
Meta = dict[str, Any]
"""As a request's ``meta``: ``deadline_ms``, ``traceparent``."""


class Node:
    """One node. Its methods run on one loop; looking at the worker and telling of it have threads of their own."""

    def __init__(self, node_id: str, options: tuple[str, ...], folder: str | None, actor_name: str) -> None:
        _show_all_devices()
        if folder is not None and os.path.isdir(folder):  # noqa: PTH112 - before anything else
            os.chdir(folder)  # options may name files from there
        self._actor_name = actor_name
        self._options = options
        # All mutable state, beside that of its parts: when any gateway was there last.
        self._used_at = time.monotonic()
        self._order, self._pace = Order(), Pace()
        self._telling = Telling(node_id, self._pace, self._heed)
        self._worker = NodeWorker(options, self._telling.note_change)
        self._telling.start(self._worker)

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

    async def call(self, asked: bytes) -> bytes:
        """Carry out a packed ``Asked``. Returns what is ``Answered``, packed."""
        request = unpacked(asked)
        return packed(await self._carry_out(request, _options(request.meta)))

    async def call_with_progress(self, asked: bytes) -> AsyncIterator[tuple[int, int] | bytes]:
        """Do the same, and tell meanwhile how far it has come: (completed bytes, total bytes)."""
        request = unpacked(asked)
        inbox: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
        options = _options(request.meta, lambda completed, total: inbox.put_nowait((completed, total)))
        asking = asyncio.ensure_future(self._carry_out(request, options))
        asking.add_done_callback(lambda _: inbox.put_nowait(None))
        while (step := await inbox.get()) is not None:
            yield step
        yield packed(await asking)

    async def cancel(self, call_id: str) -> None:
        """Have a call cancelled."""
        self._worker.cancel(call_id)

    async def drain(self, *, draining: bool) -> None:
        """Place nothing more here; or again."""
        self._telling.drain(draining=draining)

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

    async def ping(self) -> None:
        """Return once the worker answers; at once where there is none just now, for then requests are refused."""
        await self._worker.ping()

    async def watch(self) -> None:
        """Return never: whoever waits for it learns of the end of this process."""
        await asyncio.Event().wait()

    # ---- inside ----

    async def _carry_out(self, asked: Asked, options: CallOptions) -> Answered:
        """Ask the worker, unless what a placement was decided by is not so any more."""
        await self._order.reach(asked.place)
        model_id, telling = None, self._telling
        if asked.guard is not None:
            model_id = asked.guard.model_id
            refused, view = telling.why_not(asked.guard)
            if refused is not None:
                return Answered(None, refused, self._worker.incarnation, telling.shown_at() - 1, view)
        with self._working(asked.call_id, model_id, asked.place.gateway) as done:
            message, incarnation = await self._worker.call(
                asked.call_id, asked.action, asked.data, options, asked.place.gateway
            )
            done.append(message.get("success") is True)
        shown_at = telling.shown_at()
        view = await telling.view_from_now() if done[0] and _moves_much(asked, message) else None
        return Answered(message, None, incarnation, shown_at, view)

    @contextlib.contextmanager
    def _working(self, call_id: str, model_id: str | None, gateway: str) -> Iterator[list[bool]]:
        """Count a call that works with a model while it is under way; true is added where it succeeded."""
        done = list[bool]()
        if model_id is None:
            yield done
            return
        self._pace.begin(call_id, gateway, model_id)
        self._telling.note_change()
        try:
            yield done
        finally:
            self._pace.end(call_id, done=done == [True])
            self._telling.note_change()

    def _heed(self, gateways: tuple[str, ...] | None) -> None:
        """Free what gateways have that are gone, but what is leased; end where none is left and no lease is."""
        if gateways is None:
            return
        now = time.monotonic()
        gone = self._worker.possessions.gateways() - frozenset(gateways)
        for each in gone:  # for less than a lease lasts: nothing is told meanwhile
            self._worker.release(each, leased_too=False, until=now + LOOK_SECONDS)
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


def _moves_much(asked: Asked, message: Message) -> bool:
    """Tell whether a request that succeeded made more different than bytes that whoever asked can count itself."""
    if asked.action not in ACTIONS or not ACTIONS[asked.action].changes:
        return False
    if asked.action == "memory.allocate" and (
        asked.guard is not None or asked.data.get("device_id") is not None
    ):
        return bool(message["data"].get("models_unloaded") or message["data"].get("released"))
    return asked.action.startswith("memory.") and asked.action not in _MOVE_LITTLE


def _options(meta: Meta, progress: Any = None) -> CallOptions:
    return CallOptions(meta.get("deadline_ms"), progress, meta.get("traceparent"))

"""A model on its way into a device's process: its backend asks for the bytes, the worker sends them or says where they lie."""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from queue import SimpleQueue
from typing import Any

from worker.backends.base import DeviceBackend, PutsAtOnce, Range, Write
from worker.backends.host_memory import copy_between
from worker.backends.isolation.model_files import ModelFiles, reads_itself
from worker.backends.isolation.touch_guard import TouchGuard
from worker.backends.pieces import take_turns, threads_for
from worker.core.cancellation import CancelToken
from worker.core.records import AllocationRequest, Block
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureLock


class NotWholeError(Exception):
    """The worker gave the load up: the backend has to take it back."""


class Filling:
    """One load, on a thread of its own, and on others where the device takes pieces of several at once."""

    def __init__(
        self,
        backend: DeviceBackend,
        handle: str,
        request: AllocationRequest,
        token: CancelToken,
        guard: TouchGuard,
    ) -> None:
        self.handle = handle
        self.request = request
        self._files = ModelFiles(guard)
        self._pieces: SimpleQueue[tuple[Callable[[Write], Any], Future[Any]] | None] = SimpleQueue()
        self._ready: Future[None] = Future()
        self._loaded: Future[Block] = Future()
        self._whole = False
        self._ending = SureLock()
        """Held while a piece is handed over, or the load ends: no piece is left without an answer."""
        start_thread(partial(self._load, backend, token), "device-load")

    def wait_until_ready(self) -> None:
        """Wait until the block is there to be filled. Raises what the backend raised instead."""
        self._ready.result()

    def put(self, offset: int, data: memoryview) -> None:
        """Hand a piece over and wait until it is in its place. Raises what ended the load, if it has ended."""
        self._do(lambda write: write(offset, data))

    def put_file(self, place: str, identity: tuple[int, ...], ranges: list[Range]) -> bool:
        """Have ranges of a file put in their places. False where it can't be read here; raises as ``put``."""
        return bool(self._do(lambda write: self._files.put(place, identity, ranges, write)))

    def _do(self, put: Callable[[Write], Any]) -> Any:
        done: Future[Any] = Future()
        with self._ending:
            if self._loaded.done():
                self._loaded.result()
            self._pieces.put((put, done))
        return done.result()

    def finish(self) -> Block:
        """End the load and return the block, or raise what the backend raised."""
        self._whole = True
        self._pieces.put(None)
        return self._loaded.result()

    def give_up(self) -> None:
        """End the load, and return once nothing of the model is left: what a piece waits for may take long."""
        self._pieces.put(None)
        self._loaded.exception()

    def _load(self, backend: DeviceBackend, token: CancelToken) -> None:
        try:
            block = backend.load(self.handle, self.request, partial(self._fill, token), token)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for it
            with self._ending:
                self._loaded.set_exception(error)
                if not self._ready.done():
                    self._ready.set_exception(error)
                while not self._pieces.empty():
                    piece = self._pieces.get()
                    if piece is not None:
                        piece[1].set_exception(error)
        else:
            self._loaded.set_result(block)

    def _fill(self, token: CancelToken, view: memoryview | None, write: Write) -> None:
        self._ready.set_result(None)
        if view is not None:
            write = partial(_place, view)
        several = isinstance(write, PutsAtOnce) and reads_itself(write)
        with closing(self._files):  # whoever is told of the load's end finds none of their maps
            take_turns(
                iter(self._pieces.get, None),
                partial(_put, write),
                token,
                threads=threads_for(self.request.size_bytes) if several else 1,
            )
        if not self._whole:
            raise NotWholeError


def _put(write: Write, piece: tuple[Callable[[Write], Any], Future[Any]]) -> int:
    put, done = piece
    try:
        result = put(write)
    except BaseException as error:
        done.set_exception(error)
        raise
    done.set_result(result)
    return 0


def _place(view: memoryview, offset: int, data: memoryview) -> None:
    copy_between(view[offset : offset + len(data)], data)

"""The lanes of one torch device: lent for a copy, kept for the next; and copies on several at once."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from worker.backends.base import Piecewise
from worker.backends.block_copy import from_memory
from worker.backends.pieces import Done, copy_parts, no_progress, threads_for
from worker.backends.torch_copy import STAGED_BYTES, CopyEach, Lane, Translating
from worker.backends.torch_device import TorchDevice
from worker.core.cancellation import CancelToken
from worker.core.sure_lock import SureLock

if TYPE_CHECKING:
    import torch

_KEPT = 4
"""Lanes that stay for the next copy: 16 MiB of locked host memory."""


class Lanes:
    """Thread-safe."""

    def __init__(self, device: TorchDevice, translating: Translating, is_lost: Callable[[], bool]) -> None:
        self._device = device
        self._translating = translating
        self._is_lost = is_lost
        self._lock = SureLock()
        # All mutable state: the lanes that nobody has now.
        self._idle: list[Lane] = []

    @property
    def staged_bytes(self) -> int:
        """Host memory that idle lanes have locked."""
        return STAGED_BYTES * len(self._idle)

    @contextmanager
    def lend(self, token: CancelToken) -> Iterator[Lane]:
        """Lend a lane for a copy; it is through, or the copy failed, when this ends."""
        with self._lock:
            lane = self._idle.pop() if self._idle else None
        lane = lane or Lane(self._device, token, self._translating)
        try:
            yield lane
        finally:
            try:
                lane.wait()  # also after a failure: no thread may free or reuse what is still on its way
            finally:
                self._put_back(lane)

    @contextmanager
    def sharing(self, token: CancelToken) -> Iterator["Sharing"]:
        """Lend lanes to the threads of one copy; they are through, or the copy failed, when this ends."""
        with ExitStack() as lent:
            yield Sharing(lambda: lent.enter_context(self.lend(token)))

    @contextmanager
    def filling(self, block: "torch.Tensor", token: CancelToken) -> Iterator["Filling"]:
        """Lend what fills a block; all that was put is there, or failed, when this ends."""
        with self.sharing(token) as sharing:
            filling = Filling(block, token, sharing)
            try:
                yield filling
            finally:
                filling.forget()

    def copy_each(
        self, copy: CopyEach, block: "torch.Tensor", size: int, work: Piecewise, token: CancelToken, done: Done,
        *, in_order: bool,
    ) -> None:  # fmt: skip
        """Copy a block's first bytes, by several threads unless ``work`` is to be called with one place after the other."""
        threads = 1 if in_order else threads_for(size)
        if threads == 1:
            with self.lend(token) as lane:
                copy(lane, block[:size], size, work, token, done)
            return
        with self.sharing(token) as sharing:

            def copy_part(start: int, length: int) -> None:
                part = block[start : start + length]
                with sharing.one() as lane:
                    copy(lane, part, length, lambda at, piece: work(start + at, piece), token, no_progress)

            copy_parts(size, copy_part, token, done, threads=threads)

    def close(self) -> None:
        """Give all that are idle up."""
        with self._lock:
            lanes, self._idle = self._idle, []
        for lane in lanes:
            lane.close()

    def _put_back(self, lane: Lane) -> None:
        with self._lock:
            keep = len(self._idle) < _KEPT and not self._is_lost()
            if keep:
                self._idle.append(lane)
        if not keep:
            lane.close()


class Sharing:
    """Lanes lent for one copy: a thread has one to itself, and waits for no other's pieces. Thread-safe."""

    def __init__(self, lend: Callable[[], Lane]) -> None:
        self._lend = lend
        self._lock = SureLock()
        # All mutable state: the lanes that no thread uses now.
        self._idle: list[Lane] = []

    @contextmanager
    def one(self) -> Iterator[Lane]:
        """Have a lane; what it was given may still be on its way when this ends."""
        with self._lock:
            lane = self._idle.pop() if self._idle else self._lend()
        try:
            yield lane
        finally:
            with self._lock:
                self._idle.append(lane)


class Filling:
    """A ``Write`` (``PutsAtOnce``): each thread has a lane, and waits for no other's copies."""

    def __init__(self, block: "torch.Tensor", token: CancelToken, sharing: Sharing) -> None:
        self.at_once = True
        self._token = token
        self._sharing = sharing
        # All mutable state: the block until it is filled.
        self._block: torch.Tensor | None = block

    def __call__(self, offset: int, data: memoryview) -> None:
        """Write bytes to a place in the block; they may be changed when this returns."""
        self.put_each(offset, data.nbytes, from_memory(data, offset), no_progress)

    def put_each(self, offset: int, length: int, fill: Piecewise, done: Done) -> None:
        """Have each piece of a part filled where it is sent from."""
        if self._block is None:
            raise AssertionError("the block is filled")
        part = self._block[offset : offset + length]
        with self._sharing.one() as lane:
            lane.write_each(part, length, lambda at, piece: fill(offset + at, piece), self._token, done)

    def forget(self) -> None:
        """Let go of the block."""
        self._block = None

"""Copies between host and device, on a stream of their own, through two locked buffers that take turns.

While one buffer is on its way the other is filled or emptied, so that the bus and the host's own copy
overlap; and copies of different requests overlap with one another and with whatever else the device does.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from worker.backends.base import Piecewise
from worker.backends.pieces import Done
from worker.backends.pinned_buffer import PinnedBuffer
from worker.backends.torch_device import TorchDevice
from worker.core.cancellation import CancelToken

if TYPE_CHECKING:
    import torch

STAGE_BYTES = 2 * 2**20
"""A quarter of a transfer's chunk: long enough for the bus's full speed, short enough to overlap in a chunk."""

STAGED_BYTES = 2 * STAGE_BYTES
"""Host memory that a lane has locked."""


Translating = Callable[[], AbstractContextManager[None]]
"""Makes of the device's errors the worker's, and of nobody else's."""


class _Stage:
    """A buffer, and the event of the copy that last used it."""

    def __init__(self, device: TorchDevice, token: CancelToken) -> None:
        # Where the driver locks nothing, copies are right all the same; they only do not overlap.
        self._buffer = PinnedBuffer(device, STAGE_BYTES, token, required=False)
        self.memory = self._buffer.view
        self.tensor = as_tensor(self.memory)
        self.event = device.new_event()
        self.busy = False

    def wait(self) -> None:
        """Wait until it is free to be used."""
        if self.busy:
            self.event.synchronize()
            self.busy = False

    def close(self) -> None:
        """Give the buffer up."""
        del self.tensor  # it holds on to the memory
        self.memory.release()
        self._buffer.close()


class Lane:
    """A stream and its buffers. One thread's at a time; ``wait`` before anyone else sees the block."""

    def __init__(self, device: TorchDevice, token: CancelToken, translating: Translating) -> None:
        self._device = device
        self._translating = translating
        self._stages: list[_Stage] = []
        try:
            with translating():
                self._stream = device.new_stream()
                self._all = device.new_event()
                self._stages.append(_Stage(device, token))
                self._stages.append(_Stage(device, token))
        except BaseException:
            self.close()
            raise

    def write_each(
        self, block: "torch.Tensor", length: int, fill: Piecewise, token: CancelToken, done: Done
    ) -> None:
        """Have a block's first bytes filled where they are sent from, in order: ``done`` is told how many are on their way."""
        with self._device.using(self._stream):
            for start in range(0, length, STAGE_BYTES):
                token.check()
                stage, size = self._next(), min(STAGE_BYTES, length - start)
                with stage.memory[:size] as piece:
                    fill(start, piece)
                self._send(stage, block[start : start + size], stage.tensor[:size])
                done(start + size)

    def read_each(
        self, block: "torch.Tensor", length: int, take: Piecewise, token: CancelToken, done: Done
    ) -> None:
        """Hand a block's first bytes out, in order: while one piece is taken the next is on its way."""
        on_its_way: tuple[_Stage, int, int] | None = None

        def arrive(stage: _Stage, start: int, size: int) -> None:
            with self._translating():
                stage.wait()
            with stage.memory[:size] as piece:
                take(start, piece)
            done(start + size)

        with self._device.using(self._stream):
            for start in range(0, length, STAGE_BYTES):
                token.check()
                stage, size = self._next(), min(STAGE_BYTES, length - start)
                self._send(stage, stage.tensor[:size], block[start : start + size])
                if on_its_way is not None:
                    arrive(*on_its_way)
                on_its_way = stage, start, size
            if on_its_way is not None:
                arrive(*on_its_way)

    def copy_unstaged(self, target: "torch.Tensor", source: "torch.Tensor") -> None:
        """Have the device copy by itself: both are its own, or locked for it, and stay as they are until ``wait``."""
        with self._translating(), self._device.using(self._stream):
            self._device.copy(target, source)

    def wait(self) -> None:
        """Wait for all copies: until then the block must stay."""
        with self._translating():
            self._all.record(self._stream)
            self._all.synchronize()

    def close(self) -> None:
        """Give the buffers up."""
        for stage in self._stages:
            stage.close()
        self._stages.clear()

    def _next(self) -> _Stage:
        self._stages.reverse()
        stage = self._stages[0]
        with self._translating():
            stage.wait()
        return stage

    def _send(self, stage: _Stage, target: "torch.Tensor", source: "torch.Tensor") -> None:
        with self._translating():
            self._device.copy(target, source)
            stage.event.record(self._stream)
        stage.busy = True


CopyEach = Callable[[Lane, "torch.Tensor", int, Piecewise, CancelToken, Done], None]
"""``Lane.read_each``, or ``Lane.write_each``."""


def as_tensor(memory: memoryview) -> "torch.Tensor":
    """Return writable memory as torch sees it, which holds on to it."""
    import torch  # noqa: PLC0415 - imported long before, by the device

    return torch.frombuffer(memory, dtype=torch.uint8)

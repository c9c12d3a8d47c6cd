"""Copies between host and device, on a stream of their own, through two locked buffers that take turns.

While one buffer is on its way the other is filled or emptied, so that the bus and the host's own copy
overlap; and copies of different requests overlap with one another and with whatever else the device does.
"""

from typing import TYPE_CHECKING, Any

from worker.backends.host_memory import address_of, copy
from worker.backends.pinned_buffer import PinnedBuffer
from worker.backends.torch_device import TorchDevice
from worker.core.cancellation import CancelToken

if TYPE_CHECKING:
    import torch

STAGE_BYTES = 2 * 2**20
"""A quarter of a transfer's chunk: long enough for the bus's full speed, short enough to overlap in a chunk."""

STAGED_BYTES = 2 * STAGE_BYTES
"""Host memory that a lane has locked."""


class _Stage:
    """A buffer, and the copy that last used it."""

    def __init__(self, device: TorchDevice, token: CancelToken) -> None:
        # Where the driver locks nothing, copies are right all the same; they only do not overlap.
        self.buffer = PinnedBuffer(device, STAGE_BYTES, token, required=False)
        self.event: Any = None

    def wait(self) -> None:
        """Wait until it is free to be used."""
        if self.event is not None:
            self.event.synchronize()
            self.event = None


class Lane:
    """A stream and its buffers. One request at a time; ``wait`` before anyone else sees the block."""

    def __init__(self, device: TorchDevice, token: CancelToken) -> None:
        self._device = device
        self._stream = device.new_stream()
        self._stages: list[_Stage] = []
        try:
            self._stages.append(_Stage(device, token))
            self._stages.append(_Stage(device, token))
        except BaseException:
            self.close()
            raise

    def write(self, block: "torch.Tensor", data: memoryview, token: CancelToken) -> None:
        """Copy into a block. The data may be changed when this returns; the block has it after ``wait``."""
        for start in range(0, data.nbytes, STAGE_BYTES):
            token.check()
            stage = self._next()
            with data[start : start + STAGE_BYTES] as piece, stage.buffer.view[: piece.nbytes] as staged:
                _copy(staged, piece)
                self._send(block[start : start + piece.nbytes], _tensor(staged), stage)

    def read(self, block: "torch.Tensor", into: memoryview, token: CancelToken) -> None:
        """Copy out of a block; it is there when this returns."""
        on_its_way: tuple[_Stage, int, int] | None = None
        for start in range(0, into.nbytes, STAGE_BYTES):
            token.check()
            stage, length = self._next(), min(STAGE_BYTES, into.nbytes - start)
            with stage.buffer.view[:length] as staged:
                self._send(_tensor(staged), block[start : start + length], stage)
            if on_its_way is not None:
                _arrive(*on_its_way, into)
            on_its_way = stage, start, length
        if on_its_way is not None:
            _arrive(*on_its_way, into)

    def write_locked(self, block: "torch.Tensor", data: memoryview) -> None:
        """Copy into a block from memory that is locked, without staging: it must stay as it is until ``wait``."""
        self._send(block, _tensor(data), None)

    def read_locked(self, block: "torch.Tensor", into: memoryview) -> None:
        """Copy out of a block to memory that is locked, without staging: it is there after ``wait``."""
        self._send(_tensor(into), block, None)

    def wait(self) -> None:
        """Wait for all copies: until then the block must stay."""
        self._device.mark(self._stream).synchronize()

    def close(self) -> None:
        """Give the buffers up."""
        for stage in self._stages:
            stage.buffer.close()
        self._stages.clear()

    def _next(self) -> _Stage:
        self._stages.reverse()
        stage = self._stages[0]
        stage.wait()
        return stage

    def _send(self, target: "torch.Tensor", source: "torch.Tensor", stage: _Stage | None) -> None:
        self._device.copy(target, source, self._stream)
        if stage is not None:
            stage.event = self._device.mark(self._stream)


def _arrive(stage: _Stage, start: int, length: int, into: memoryview) -> None:
    stage.wait()
    with stage.buffer.view[:length] as staged, into[start : start + length] as piece:
        _copy(piece, staged)


def _tensor(memory: memoryview) -> "torch.Tensor":
    import torch  # noqa: PLC0415 - imported long before, by the device

    return torch.frombuffer(memory, dtype=torch.uint8)


def _copy(target: memoryview, source: memoryview) -> None:
    """Copy memory; the interpreter's lock is free meanwhile, unless the source is read-only."""
    if source.readonly:
        target[:] = source
    else:
        copy(address_of(target), address_of(source), target.nbytes)

"""One DirectML device through torch: buffers of bytes, and copies in pieces whose hidden buffers are bounded.

Measured with the driver's own books (docs/directml.md). A slice that does not begin at 0 is a new device buffer of
its size, and writing one takes a second to write it back; reading a slice that begins at 0 downloads all of its
tensor. Staging buffers in system memory stay as large as the largest copy so far. So a copy goes in
pieces of powers of two, at most PIECE_BYTES: the sizes of hidden buffers are few, and are reused.
Downloading with ``copy_`` into a tensor over memory of ours gives that tensor other memory: ``cpu`` it is.
"""

from collections.abc import Iterator
from typing import Any

from worker.backends.base import COPY_CHUNK_BYTES

PIECE_BYTES = COPY_CHUNK_BYTES
HIDDEN_BYTES = 2 * PIECE_BYTES
"""Device memory that a copy takes beside its block: the slice, and what writes it back."""

ALIGNMENT_BYTES = 256
"""Blocks are whole multiples: the tiled pool's own granularity, and no size that a flush uses."""


class DirectMlDevice:
    """``privateuseone:index``. Not thread-safe; every method can raise RuntimeError."""

    def __init__(self, torch: Any, directml: Any, index: int) -> None:
        self._torch = torch
        self._directml = directml
        self._device = directml.device(index)
        self.index = index
        self._probe = self.empty(ALIGNMENT_BYTES)

    def empty(self, size: int) -> Any:
        """Make a buffer of ``size`` bytes, which must be under 4 GiB: the library cuts more short in silence."""
        return self._torch.empty(size, dtype=self._torch.uint8, device=self._device)

    def zero(self, tensor: Any) -> None:
        """Set a buffer to zero."""
        tensor.zero_()
        self.synchronize()

    def synchronize(self) -> None:
        """Wait until the device has done all it was given. A download is the only way."""
        self._probe.cpu()

    def write(self, tensor: Any, offset: int, data: memoryview) -> list[int]:
        """Copy into a buffer. Returns the sizes of the hidden buffers that it took, one after the other."""
        source = self._torch.frombuffer(
            data if not data.readonly else bytearray(data), dtype=self._torch.uint8
        )
        hidden = []
        for start, length in pieces(len(data)):
            piece = source[start : start + length]
            tensor.narrow(0, offset + start, length).copy_(piece)
            if offset + start:  # a slice at 0 shares its tensor's memory
                hidden.append(length)
        self.synchronize()
        return hidden

    def read(self, tensor: Any, offset: int, into: memoryview) -> list[int]:
        """Copy out of a buffer. Returns as ``write`` does."""
        target = self._torch.frombuffer(into, dtype=self._torch.uint8)
        hidden = []
        for start, length in pieces(len(into)):
            piece = target[start : start + length]
            if offset + start == 0 and length == tensor.numel():
                piece.copy_(tensor.cpu())
                continue
            part = tensor.narrow(0, offset + start, length)
            # At 0 a slice shares the memory of its tensor, and reading it would stage all of that.
            piece.copy_((part.clone() if offset + start == 0 else part).cpu())
            del part  # before the next is made: one at a time
            hidden.append(length)
        return hidden

    def tiles(self, mb_per_tile: int) -> list[float]:
        """Return the used part of each tile of the tiled pool, in the order of its chunks."""
        return list(self._directml.gpu_memory(self.index, mb_per_tile))


def pieces(length: int) -> Iterator[tuple[int, int]]:
    """Cover ``length`` bytes with pieces of one power of two; the last may overlap the one before."""
    if not length:
        return
    piece = min(PIECE_BYTES, 1 << (length.bit_length() - 1))
    for start in range(0, length - piece + 1, piece):
        yield start, piece
    if length % piece:
        yield length - piece, piece

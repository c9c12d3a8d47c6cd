"""One DirectML device through torch: buffers of bytes, and copies in pieces whose hidden buffers are bounded.

Measured with the driver's own ledger (docs/directml.md). A slice that does not begin at 0 is a new device buffer of
its size, and writing one takes a second to write it back; reading a slice that begins at 0 downloads all of its
tensor. Staging buffers in system memory stay as large as the largest copy so far. So a copy goes in
pieces of powers of two, at most PIECE_BYTES: the sizes of hidden buffers are few, and are reused.
A slice is worked on in 32-bit words: one that ends within the last word of a block reaches past it, which ends
the process. So copies are in whole words, and odd ends are read first.
Downloading with ``copy_`` into a tensor over memory of ours gives that tensor other memory: ``cpu`` it is.
"""

from collections.abc import Iterator
from typing import Any

from worker.backends.base import COPY_CHUNK_BYTES
from worker.core.errors import UnsupportedError

PIECE_BYTES = COPY_CHUNK_BYTES
HIDDEN_BYTES = 2 * PIECE_BYTES
"""Device memory that a copy takes beside its block: the slice, and what writes it back."""

ALIGNMENT_BYTES = 256
"""Blocks and copies are whole multiples: the tiled pool's own granularity, and no size that a flush uses."""

_HAS_TYPES = frozenset(
    {"uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bool"}
)  # fmt: skip
"""Element types that the library takes. Any other ends the process, with everything on the device."""

_STAND_INS = {
    "bfloat16": "float32",
    "float8_e4m3fn": "float16",
    "float8_e5m2": "float16",
    "uint16": "int32",
    "uint32": "int64",
}
"""For others, the smallest type that the library takes and that has each of their values."""


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

    def write(self, tensor: Any, offset: int, data: memoryview) -> dict[int, int]:
        """Copy into a buffer. Returns the hidden buffers that it took: by size, how many at once."""
        start, end = _words(offset, len(data))
        hidden: dict[int, int] = {}
        if end - start > len(data) or data.readonly:
            whole = bytearray(end - start)
            for word in {start, end - ALIGNMENT_BYTES} if end - start > len(data) else ():
                edge = memoryview(whole)[word - start : word - start + ALIGNMENT_BYTES]
                hidden |= self.read(tensor, word, edge)
            whole[offset - start : offset - start + len(data)] = data
            data = memoryview(whole)
        source = self._torch.frombuffer(data, dtype=self._torch.uint8)
        for at, length in pieces(len(data)):
            tensor.narrow(0, start + at, length).copy_(source[at : at + length])
            self.synchronize()  # or the next piece finds the hidden buffers still in use, and makes more
            if start + at:  # a slice at 0 shares its tensor's memory
                hidden[length] = 2
        return hidden

    def read(self, tensor: Any, offset: int, into: memoryview) -> dict[int, int]:
        """Copy out of a buffer. Returns as ``write`` does."""
        start, end = _words(offset, len(into))
        target = self._torch.frombuffer(into, dtype=self._torch.uint8)
        hidden: dict[int, int] = {}
        for at, length in pieces(end - start):
            begin = start + at
            part = tensor.narrow(0, begin, length)
            if begin == 0 and length < tensor.numel():
                # At 0 a slice shares its tensor's memory, and reading it would stage all of that.
                part = part.clone()
            if begin or length < tensor.numel():
                hidden[length] = 1
            got = part.cpu()
            del part  # before the next is made: one at a time
            first, last = max(begin, offset), min(begin + length, offset + len(into))
            target[first - offset : last - offset].copy_(got[first - begin : last - begin])
        return hidden

    def copy_of(self, host: Any) -> Any:
        """Copy a host's tensor, in a type that the library takes. UnsupportedError where none has its values."""
        name = str(host.dtype).removeprefix("torch.")
        if name not in _HAS_TYPES:
            if name not in _STAND_INS:
                message = f"dml:{self.index} has no {name}, and no type that has all its values"
                raise UnsupportedError(message, device_id=f"dml:{self.index}", dtype=name)
            host = host.to(getattr(self._torch, _STAND_INS[name]))
        return host.to(self._device)

    def tiles(self, mb_per_tile: int) -> list[float]:
        """Return the used part of each tile of the tiled pool, in the order of its chunks."""
        return list(self._directml.gpu_memory(self.index, mb_per_tile))


def _words(offset: int, length: int) -> tuple[int, int]:
    """Widen a range to whole words of ALIGNMENT_BYTES: blocks consist of such."""
    end = -(-(offset + length) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return offset // ALIGNMENT_BYTES * ALIGNMENT_BYTES, end


def pieces(length: int) -> Iterator[tuple[int, int]]:
    """Cover ``length`` bytes with pieces of one power of two; the last may overlap the one before."""
    if not length:
        return
    piece = min(PIECE_BYTES, 1 << (length.bit_length() - 1))
    for start in range(0, length - piece + 1, piece):
        yield start, piece
    if length % piece:
        yield length - piece, piece

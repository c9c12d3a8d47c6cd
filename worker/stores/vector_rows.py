"""Vectors as rows of 16-bit integers in anonymous maps: as many pages as there are rows, and back when a row goes.

A row is a vector in steps of which its largest component has 32,767, with that component and its length in float32. That is closer
than float16 for all but components of less than a thirtieth of the largest, and a processor makes float32 of them several
times as fast. A row that goes leaves no gap, since the last one takes its place.
"""

import mmap
import sys
from contextlib import suppress
from typing import Any

import numpy as np

from worker.stores.maps import anonymous

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK_BYTES = 2 * 2**20
LARGEST = 1e30
"""What a component may be: its square times the dimensions is to be a float32's."""
SMALLEST = 1e-30
"""A vector with no larger component is one of zeros."""


STEPS = 2**15 - 1
"""What a vector's largest component is kept as."""
_BESIDE_BYTES = 8
"""Of a row: its largest component, and its length."""


def dimensions_of(row_bytes: int) -> int:
    """Return how many dimensions a row of so many bytes has."""
    return (row_bytes - _BESIDE_BYTES) // 2


def renewed(row: bytes) -> bytes:
    """Return a row as it was kept before, a vector by its largest component in float16, as one of now."""
    top, values = np.frombuffer(row, "<f4", 1)[0], np.frombuffer(row, "<f2", -1, _BESIDE_BYTES)
    return Rows(len(values)).pack(values.astype(np.float64) * np.float64(top))


class Rows:
    """Rows of one number of dimensions. Its owner locks."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._type = np.dtype([("top", "<f4"), ("norm", "<f4"), ("values", "<i2", (dimensions,))])
        self.row_bytes = self._type.itemsize
        self._block_rows = max(1, BLOCK_BYTES // self.row_bytes)
        # All mutable state.
        self._blocks: list[_Block] = []
        self.count = 0

    @property
    def held_bytes(self) -> int:
        """What the rows take."""
        return self.count * self.row_bytes

    def pack(self, vector: Array) -> bytes:
        """Return a vector as a row."""
        top = float(np.abs(vector).max())
        row = np.zeros((), self._type)
        if top > SMALLEST:
            row["top"] = top
            step = np.float64(row["top"]) / STEPS
            row["values"] = np.rint(vector / step)
            row["norm"] = step * np.sqrt(np.square(row["values"], dtype=np.float64).sum())
        return row.tobytes()

    def add(self, row: bytes) -> int:
        """Add a row. Returns its index. OutOfMemoryError, and nothing is added, where the system refuses a map."""
        index = self.count
        if index == len(self._blocks) * self._block_rows:
            self._blocks.append(_Block(self._type, self._block_rows))
        self.replace(index, row)
        self.count += 1
        return index

    def replace(self, index: int, row: bytes) -> None:
        """Put a row in place of another."""
        self._block(index)[index % self._block_rows] = np.frombuffer(row, self._type)[0]

    def remove(self, index: int) -> int:
        """Remove a row. Returns the index of the one that takes its place: the last one's, its own if it was that."""
        last = self.count - 1
        if index != last:
            self._block(index)[index % self._block_rows] = self._block(last)[last % self._block_rows]
        self.count = last
        block, rows = divmod(last, self._block_rows)
        if not rows:
            self._blocks.pop(block).close()
        else:
            self._blocks[block].shrink(rows * self.row_bytes, (rows + 1) * self.row_bytes)
        return last

    def close(self) -> None:
        """Give all of them back."""
        while self._blocks:
            self._blocks.pop().close()
        self.count = 0

    def row(self, index: int) -> bytes:
        """Return a copy of a row."""
        return bytes(self._block(index)[index % self._block_rows].tobytes())

    def some(self, start: int, stop: int, chosen: Array | None) -> Array:
        """Return rows from ``start`` on: in place as far as one block goes, or a copy of those that are chosen."""
        if chosen is not None:
            return self.at(chosen[start:stop])
        block, first = divmod(start, self._block_rows)
        array = self._blocks[block].rows
        return array[
            first : min(self._block_rows, first + stop - start, self.count - block * self._block_rows)
        ]

    def at(self, indices: Array) -> Array:
        """Return a copy of rows."""
        found = np.empty(len(indices), self._type)
        blocks, places = np.divmod(indices, self._block_rows)
        for block in np.unique(blocks):
            here = blocks == block
            found[here] = self._blocks[block].rows[places[here]]
        return found

    def _block(self, index: int) -> Array:
        return self._blocks[index // self._block_rows].rows


class _Block:
    """A map that rows are in."""

    def __init__(self, kind: "np.dtype[Any]", count: int) -> None:
        size = -(-kind.itemsize * count // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map = anonymous(size, "vectors")
        self.rows: Array = np.frombuffer(self._map, kind, count)

    def shrink(self, size: int, before: int) -> None:
        """Give back the pages that only what lies beyond a size has touched, where the system takes single ones."""
        if sys.platform != "win32":
            begin, end = (-(-each // mmap.PAGESIZE) * mmap.PAGESIZE for each in (size, before))
            if begin < end:
                self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)

    def close(self) -> None:
        """Unmap it; where someone looks at it still, it goes with them."""
        del self.rows
        with suppress(BufferError):
            self._map.close()

"""Keeping a mapped file out of the process's memory: pages that were read go back to the page cache."""

import ctypes
import mmap
import sys
from pathlib import Path
from typing import Any

_MADV_DONTNEED = 4
_FIELDS = 6
"""A line of maps: addresses, permissions, offset, device, inode, path."""


class MappedPages:
    """A file's private mappings in this process, as they are now. Only on Linux; elsewhere it knows none.

    Only pages that lie in one are let go: what looks like the file but is memory would lose its contents.
    """

    def __init__(self, path: Path) -> None:
        self._ranges = _mapped_ranges(path) if sys.platform == "linux" else ()
        self._libc: Any = ctypes.CDLL(None) if self._ranges else None
        if self._libc is not None:
            self._libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def release(self, address: int, length: int) -> None:
        """Let go of the pages that hold these bytes; they are read from the file again if need be."""
        start = address // mmap.PAGESIZE * mmap.PAGESIZE
        end = -(-(address + length) // mmap.PAGESIZE) * mmap.PAGESIZE
        if any(low <= start and end <= high for low, high in self._ranges):
            self._libc.madvise(start, end - start, _MADV_DONTNEED)


def _mapped_ranges(path: Path) -> tuple[tuple[int, int], ...]:
    wanted = path.stat().st_ino
    found = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split(maxsplit=_FIELDS - 1)
        if len(fields) == _FIELDS and int(fields[4]) == wanted and fields[5] == str(path):
            low, _, high = fields[0].partition("-")
            found.append((int(low, 16), int(high, 16)))
    return tuple(found)

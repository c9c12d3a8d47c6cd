"""Anonymous maps: memory that the system has back when it is unmapped, or by the page where it takes single ones."""

import mmap
import sys
from contextlib import suppress

from worker.plugins import OutOfMemoryError

PAGE_BYTES = mmap.PAGESIZE
PUNCHES = sys.platform == "linux"
"""Whether single pages of a map can be given back."""
_COLLAPSE = 25
"""MADV_COLLAPSE, of Linux from 6.1 on."""


def anonymous(size: int, what: str) -> mmap.mmap:
    """Return a map of zeros. OutOfMemoryError where the system refuses it, which says what it was to be of."""
    try:
        if sys.platform == "win32":
            return mmap.mmap(-1, size)
        made = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        message = f"the system refused a map of {size} bytes for {what}: {error}"
        raise OutOfMemoryError(message, requested_bytes=size) from error
    if sys.platform == "linux":
        with suppress(OSError):  # a system without huge pages
            # A huge page that reaches into a neighbour would stay until both are unmapped.
            made.madvise(mmap.MADV_NOHUGEPAGE)
    return made


def collapse(made: mmap.mmap, begin: int, size: int) -> bool:
    """Have a part of a map that is written in huge pages, which are given back many times as fast. Returns whether it is."""
    if sys.platform != "linux":
        return False
    try:
        made.madvise(mmap.MADV_HUGEPAGE, begin, size)
        made.madvise(_COLLAPSE, begin, size)
    except OSError:  # an older system, or one without huge pages, or without a free one
        with suppress(OSError):
            made.madvise(mmap.MADV_NOHUGEPAGE, begin, size)
        return False
    return True


def punch(made: mmap.mmap, begin: int, end: int) -> None:
    """Give back whole pages from one place to another; they are zeros afterwards. Only where ``PUNCHES``."""
    if sys.platform == "linux":
        made.madvise(mmap.MADV_DONTNEED, begin, end - begin)

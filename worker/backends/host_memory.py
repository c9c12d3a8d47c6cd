"""Buffers of this process's own memory: anonymous maps, whose pages are gone when they are unmapped."""

import ctypes
import errno
import mmap
import sys
from typing import Any, Protocol

from worker.backends.raw_pages import POPULATE_WRITE, fault_in
from worker.core.cancellation import CancelToken
from worker.core.errors import OutOfMemoryError

PAGE_BYTES = mmap.PAGESIZE
HUGE_PAGE_BYTES = 2 * 2**20
_STEP_BYTES = 64 * 2**20
"""Pages are touched in steps of this size (8-30 ms), so that cancelling is seen in between."""

_MADV_DONTNEED = 4
_MADV_HUGEPAGE = 14

_LINUX = sys.platform == "linux"
_libc: Any = ctypes.CDLL(None, use_errno=True) if sys.platform != "win32" else None
if _libc is not None:
    _libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    _libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)


class Buffer(Protocol):
    """Memory that the worker can address."""

    address: int
    size_bytes: int
    actual_bytes: int
    touched: bool
    """Whether its pages were written, and so take memory."""

    @property
    def view(self) -> memoryview:
        """The bytes."""
        ...

    def close(self) -> int | None:
        """Unmap. Returns the bytes that went back to the system, None if that can't be told."""
        ...


def page_rounded(size_bytes: int) -> int:
    """Round up to whole pages."""
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES


class AnonymousBuffer:
    """A private anonymous map. Raises OutOfMemoryError if the system refuses it."""

    def __init__(self, size_bytes: int, alignment: int | None = None) -> None:
        self.size_bytes = size_bytes
        self.actual_bytes = page_rounded(size_bytes)
        self.touched = False
        slack = alignment if alignment is not None and alignment > PAGE_BYTES else 0
        self._map = _map_anonymous(self.actual_bytes + slack)
        base = address_of(self._map)
        self._offset = -base % slack if slack else 0
        self.address = base + self._offset
        if self.actual_bytes >= HUGE_PAGE_BYTES:
            self._advise_huge_pages()

    @property
    def view(self) -> memoryview:
        """The bytes."""
        return memoryview(self._map)[self._offset : self._offset + self.size_bytes]

    def touch(self, token: CancelToken) -> None:
        """Make every page take memory and read as zero; for a buffer that is used again, zero it."""
        fill_with_zeros(self.address, self.actual_bytes, token, fresh=not self.touched)
        self.touched = True

    def close(self) -> int | None:
        """Unmap; the system has the pages back when this returns."""
        resident = resident_bytes(self.address, self.actual_bytes)
        return resident if self.unmap() else None

    def unmap(self) -> bool:
        """Do what ``close`` does, without a look at how much goes back. False where the pages stay for as long as a view."""
        try:
            self._map.close()
        except BufferError:
            # A copy that was cut short still holds a view. The pages go now; the addresses follow
            # when the view does.
            if _libc is None:
                return False
            _libc.madvise(self.address, self.actual_bytes, _MADV_DONTNEED)
            del self._map
        return True

    def _advise_huge_pages(self) -> None:
        # Only whole huge pages inside the buffer: one that it shared with a neighbour would stay
        # until both are unmapped, and "freed" would not be true.
        start = -(-self.address // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
        end = (self.address + self.actual_bytes) // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
        if _LINUX and end > start:
            _libc.madvise(start, end - start, _MADV_HUGEPAGE)


def _map_anonymous(length: int) -> mmap.mmap:
    try:
        if sys.platform == "win32":
            return mmap.mmap(-1, length)
        return mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError, MemoryError, ValueError) as error:
        message = f"the system refused a map of {length} bytes: {error}"
        raise OutOfMemoryError(message, requested_bytes=length) from error


def address_of(mapping: mmap.mmap | memoryview) -> int:
    """Return where writable memory begins. The caller keeps it alive."""
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


def fill_with_zeros(address: int, length: int, token: CancelToken, *, fresh: bool) -> None:
    """Touch every page. Fresh pages are faulted in by the kernel, which zeroes them on the way."""
    for offset in range(0, length, _STEP_BYTES):
        token.check()
        step = min(_STEP_BYTES, length - offset)
        if not (fresh and _populate(address + offset, step)):
            ctypes.memset(address + offset, 0, step)


def _populate(address: int, length: int) -> bool:
    """Fault pages in. False where the kernel does not know how; OutOfMemoryError where it has none."""
    code = fault_in(address, length, POPULATE_WRITE)
    if code in {0, errno.EINVAL}:
        return code == 0
    message = f"the system has no pages for {length} bytes: {errno.errorcode.get(code, code)}"
    raise OutOfMemoryError(message, requested_bytes=length)


def resident_bytes(address: int, length: int) -> int | None:
    """Ask the system how many bytes of whole pages are in memory. None where it can't say."""
    pages = length // PAGE_BYTES
    if sys.platform == "win32":
        from worker.backends.windows_pages import resident_pages  # noqa: PLC0415 - exists on Windows only

        present_pages = resident_pages(address, pages, PAGE_BYTES)
        return None if present_pages is None else present_pages * PAGE_BYTES
    vector = ctypes.create_string_buffer(pages)
    if _libc.mincore(address, length, vector) != 0:
        return None
    present = vector.raw
    # Bit 0 of each byte says present; the others are reserved and zero on every known system.
    return (pages - present.count(b"\0")) * PAGE_BYTES


def copy(destination: int, source: int, length: int) -> None:
    """Copy memory. The interpreter's lock is free meanwhile."""
    ctypes.memmove(destination, source, length)


def copy_between(to: memoryview, from_: memoryview) -> None:
    """Copy with the interpreter's lock free where both ends can be addressed. ValueError unless they are of one length."""
    if from_.readonly or len(to) != len(from_) or not len(to):
        to[:] = from_
    else:
        copy(address_of(to), address_of(from_), len(to))

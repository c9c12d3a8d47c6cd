"""Weights that stay where the system has them: a file's pages in its page cache, mapped and not copied.

The map is private and writable: what user code writes by mistake becomes a copy of that page, and neither
changes the file nor ends the process. What would end it is a touch after the file was cut short; a lease on
the file (``file_lease``) holds that off until the bytes are this process's own memory.
"""

import ctypes
import errno
import mmap
import os
import sys
from contextlib import suppress

from worker.backends.file_lease import FileLease
from worker.backends.host_memory import address_of, page_rounded, resident_bytes
from worker.backends.pieces import Done, take_turns, threads_for
from worker.backends.raw_pages import (
    POPULATE_READ,
    cached_bytes,
    fault_in,
    map_anonymous,
    move,
    private_bytes,
    touch,
    unmap,
)
from worker.core.cancellation import CancelToken
from worker.core.errors import OutOfMemoryError
from worker.core.records import FileRange
from worker.core.sure_lock import SureLock

_STEP_BYTES = 64 * 2**20
"""Pages are read in steps of this size, so that cancelling is seen in between."""
_SCRATCH_BYTES = 2**20
"""Of 1, 4 and 8 MiB a read the fastest: it stays in the processor's own cache."""
_FAULT_AROUND_BYTES = 2**16
"""What Linux maps at a fault of a page that is in the page cache."""
_CLOSED = -1
_MAP_NORESERVE = 0x4000
"""From linux/mman.h: pages that no process is to write need no promise of memory."""


class MappedFile:
    """A Buffer over a part of a file.

    Errors: OSError where it can't be mapped, or where it must be guarded and the system grants no lease.
    """

    def __init__(self, file: FileRange, *, guarded: bool) -> None:
        self.size_bytes = file.size_bytes
        self.actual_bytes = page_rounded(file.size_bytes)
        self.touched = True
        self._file = file
        self._changing = SureLock()
        # All mutable state: whether the bytes are the file's still, whether a writer spoiled them, and until then
        # the descriptor and what guards the file.
        self.in_place = True
        self._spoiled = False
        self._lease: FileLease | None = None
        self._descriptor = os.dup(file.descriptor)
        try:
            self._lease = _lease(self._descriptor, needed=guarded)
            self._map = _map(self._descriptor, file)
        except BaseException:
            self._let_go()
            raise
        self.address = address_of(self._map)

    @property
    def view(self) -> memoryview:
        """The bytes."""
        return memoryview(self._map)

    @property
    def stale(self) -> bool:
        """Whether the bytes are not those that were mapped: the file was written to, and nothing held that off."""
        return self._spoiled or (self.in_place and self._lease is None and self._changed())

    def populate(self, token: CancelToken, done: Done) -> None:
        """Have every byte in memory. OSError where the file can't be read, or was cut short.

        1. What is in the page cache, and no process can cut short, is touched: each touch has the pages around it
           mapped too, where the system's advice goes page by page and takes half as long again.
        2. Else this thread and one more have it read.
        """
        cached = cached_bytes(self._descriptor, self._file.start, self.size_bytes)
        if self._lease is not None and cached == self.actual_bytes:  # 1
            with self.view as view:
                for offset in range(0, self.size_bytes, _STEP_BYTES):
                    token.check()
                    bytes(view[offset : offset + _STEP_BYTES : _FAULT_AROUND_BYTES])
                    done(min(self.size_bytes, offset + _STEP_BYTES))
            return

        def read(offset: int) -> int:
            length = min(_STEP_BYTES, self.size_bytes - offset)
            self._fault_in(offset, length)
            return length

        # 2
        take_turns(
            range(0, self.size_bytes, _STEP_BYTES), read, token, done, threads=threads_for(self.size_bytes)
        )

    def is_wanted(self) -> bool:
        """Tell whether somebody waits to write to the file."""
        if not self._changing.acquire(blocking=False):
            return False  # it is on its way already
        try:
            return self._lease is not None and self._lease.wanted
        finally:
            self._changing.release()

    def give_way(self) -> None:
        """Make the bytes this process's own memory, at the same addresses, and give the lease up.

        Readers see the same bytes throughout; what is in the file then where the writer did not wait, and zeros
        beyond its end. OutOfMemoryError, OSError: nothing changed.
        """
        with self._changing:
            if self._lease is None:
                return
            own = map_anonymous(self.actual_bytes)
            try:
                target = memoryview((ctypes.c_char * self.size_bytes).from_address(own)).cast("B")
                got = read_at(self._descriptor, self._file.start, target)
                self._spoiled = got < self.size_bytes or self._changed()
                move(own, self.address, self.actual_bytes)
            except BaseException:
                unmap(own, self.actual_bytes)
                raise
            self.in_place = False
            self._let_go()

    def close(self) -> int | None:
        """Unmap. Returns the bytes that no other process maps: the system may take them for anything now."""
        with self._changing:
            count = private_bytes if self.in_place else resident_bytes
            returned = count(self.address, self.actual_bytes)
            try:
                self._map.close()
            except BufferError:
                # User code kept a tensor: it reads zeros from now on, whatever becomes of the file.
                if sys.platform != "win32":
                    map_anonymous(self.actual_bytes, self.address)
                del self._map
            self.in_place = False
            self._let_go()
            return returned

    def _fault_in(self, offset: int, length: int) -> None:
        code = fault_in(self.address + offset, length, POPULATE_READ)
        if code == errno.EINVAL and sys.platform != "win32":
            # The system has no such advice.
            if not read_through(self._descriptor, self._file.start + offset, length):
                raise OSError(errno.ESTALE, "the file was cut short")
        elif code == errno.EINVAL:
            # Windows: a file that is mapped can't be cut short.
            touch(self.address + offset, length)
        elif code == errno.ENOMEM:
            message = f"the system has no pages for {length} bytes of a file"
            raise OutOfMemoryError(message, requested_bytes=length)
        elif code:
            raise OSError(code, "the disk failed, or the file was cut short")

    def _changed(self) -> bool:
        return file_identity(self._descriptor) != self._file.identity

    def _let_go(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.release()
        descriptor, self._descriptor = self._descriptor, _CLOSED
        if descriptor != _CLOSED:
            os.close(descriptor)


def file_identity(descriptor: int) -> tuple[int, ...]:
    """Return which file it is, and what changes when it is written to: its size, and when that was.

    Of which it is, as much as every version of Python says on Windows: 3.12 has more bits of both.
    """
    status = os.fstat(descriptor)
    return status.st_dev & 0xFFFFFFFF, status.st_ino & (2**64 - 1), status.st_size, status.st_mtime_ns


def map_privately(descriptor: int, start: int, size_bytes: int) -> mmap.mmap:
    """Map a part of a file so that what is written to the map stays in it."""
    if sys.platform != "linux":
        return mmap.mmap(descriptor, size_bytes, access=mmap.ACCESS_COPY, offset=start)
    flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
    return mmap.mmap(descriptor, size_bytes, flags=flags, offset=start)


def read_ahead(descriptor: int, offset: int, length: int) -> None:
    """Tell the system that a stretch of a file is read soon: of several readers in turn it reads too little ahead."""
    if sys.platform == "linux":
        with suppress(OSError):  # a hint: a file system may not take it
            os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_WILLNEED)


def read_through(descriptor: int, start: int, length: int) -> bool:
    """Have a stretch of a file in the page cache by reading it, which fails without a signal. False where the file ends before; OSError."""
    with memoryview(bytearray(min(_SCRATCH_BYTES, length))) as scratch:
        for begin in range(0, length, _SCRATCH_BYTES):
            with scratch[: length - begin] as part:
                if read_at(descriptor, start + begin, part) < len(part):
                    return False
    return True


def _lease(descriptor: int, *, needed: bool) -> FileLease | None:
    try:
        return FileLease(descriptor)
    except OSError:
        if needed:
            raise
        return None


def _map(descriptor: int, file: FileRange) -> mmap.mmap:
    if file_identity(descriptor) != file.identity:
        raise OSError(errno.ESTALE, "it was written to while it was opened")
    return map_privately(descriptor, file.start, file.size_bytes)


def read_at(descriptor: int, offset: int, target: memoryview) -> int:
    """Fill ``target``. Returns the bytes read, which are fewer only where the file ends; OSError, on Windows always."""
    if sys.platform == "win32":
        raise OSError("Windows keeps a mapped file as it is: nothing is read from beside it")
    done = 0
    while done < target.nbytes:
        got = os.preadv(descriptor, [target[done : done + _STEP_BYTES]], offset + done)
        if got == 0:
            break
        done += got
    return done

"""Model files as a device's process reads them, each for one load.

Where the device takes pieces from memory of its own they are read into that; else the file is mapped, and copied from
where it lies. What it can't read is the worker's to read, and to say why: a file that is another by now, that was cut short, or that
the disk does not give. ``TouchGuard`` has the process outlive the last two.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import TypeGuard

from worker.backends.base import Range, Write, WritesEach
from worker.backends.host_memory import PAGE_BYTES, page_rounded
from worker.backends.isolation.guarded_map import GuardedMap
from worker.backends.isolation.touch_guard import TouchGuard
from worker.backends.mapped_file import file_identity, map_privately, read_at, read_through
from worker.backends.pieces import no_progress
from worker.backends.raw_pages import POPULATE_READ, cached_bytes, fault_in, touch
from worker.core.sure_lock import SureLock

_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_CLOSE_BYTES = 2**16
"""What lies between two parts and is read all the same: as much as comes with a page that is touched."""


class _UnreadableError(Exception):
    """The file was cut short, or the disk does not give it."""


class ModelFile(GuardedMap):
    """One open file, which it owns once it could be mapped: OSError or ValueError. One thread's, but for ``send``."""

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        super().__init__(descriptor, map_privately(descriptor, 0, size_bytes), 0)

    def wait_for(self, start: int, length: int) -> bool:
        """Have a stretch of it in memory, however long its storage takes. False where it can't be.

        Who writes it to a device has that device's lock meanwhile, and neither its figures nor others' calls are to wait
        for storage. What the page cache lacks is read: a touch of its pages, or advice to read them ahead, has the system
        read them in smaller pieces.
        """
        first = start // PAGE_BYTES * PAGE_BYTES
        size = start + length - first
        cached = cached_bytes(self.descriptor, first, size)
        if cached == page_rounded(size):
            return True
        if cached is not None:
            with suppress(OSError):  # the disk failed
                return read_through(self.descriptor, start, length)
            return False
        code = fault_in(self._address + first, size, POPULATE_READ)
        if code == errno.EINVAL:
            self._touched = start, length
            touch(self._address + start, length)
            return not (self.spoiled or self.is_short())
        return not code

    def send(self, to: int, start: int, length: int, write: WritesEach) -> bool:
        """Read a stretch of it to where the device takes it from. False where not all of it could be read."""

        def fill(at: int, piece: memoryview) -> None:
            try:
                whole = read_at(self.descriptor, start + at - to, piece) == len(piece)
            except OSError as error:
                raise _UnreadableError from error
            if not whole:
                raise _UnreadableError

        try:
            write.put_each(to, length, fill, no_progress)
        except _UnreadableError:
            return False
        return True

    def put(self, to: int, start: int, length: int, write: Write) -> bool:
        """Write a stretch of it to a place in the block. False where not all of it was there: what was written is nothing."""
        self._touched = start, length
        with memoryview(self._map) as whole, whole[start : start + length] as data:
            write(to, data)
        return not (self.spoiled or self.is_short())


class ModelFiles:
    """Those of one load. Several threads may put where the device takes pieces from memory of its own."""

    def __init__(self, guard: TouchGuard) -> None:
        self._guard = guard
        self._lock = SureLock()
        # All mutable state: the files by what they are, None for one that is not to be read here; and all that are open.
        self._files: dict[tuple[int, ...], ModelFile | None] = {}
        self._open: list[ModelFile] = []

    def put(self, place: str, identity: tuple[int, ...], ranges: list[Range], write: Write) -> bool:
        """Write stretches of a file to their places in the block. False where it can't be read here."""
        file = self._file(place, identity)
        if file is None:
            return False
        if reads_itself(write):
            whole = all(file.send(*each, write) for each in ranges)
        else:
            whole = self._put_mapped(file, ranges, write)
        if not whole:
            self._files[identity] = None  # open until the end: another thread may be reading it
        return whole

    def close(self) -> None:
        """Give all up."""
        for each in self._open:
            each.close()

    def _put_mapped(self, file: ModelFile, ranges: list[Range], write: Write) -> bool:
        self._guard.begin(file)
        try:
            return all(file.wait_for(*each) for each in _stretches(ranges)) and all(
                file.put(*each, write) for each in ranges
            )
        finally:
            self._guard.end(file)

    def _file(self, place: str, identity: tuple[int, ...]) -> ModelFile | None:
        with self._lock:
            if identity not in self._files:
                file = self._files[identity] = _opened(place, identity)
                if file is not None:
                    self._open.append(file)
            return self._files[identity]


def reads_itself(write: Write) -> TypeGuard[WritesEach]:
    """Tell whether pieces are read to where the device takes them from, and no file is touched by its map."""
    return sys.platform != "win32" and isinstance(write, WritesEach)


def _stretches(ranges: list[Range]) -> Iterator[tuple[int, int]]:
    """Yield where ranges lie in their file, and how long: those that are close together as one."""
    first = end = 0
    for _, start, length in ranges:
        if not end <= start <= end + _CLOSE_BYTES:
            if end > first:
                yield first, end - first
            first = start
        end = start + length
    if end > first:
        yield first, end - first


def _opened(place: str, identity: tuple[int, ...]) -> ModelFile | None:
    """Return a file; None where there is none that can be mapped, or another."""
    with suppress(OSError, ValueError), ExitStack() as undo:
        descriptor = os.open(place, _OPEN_FLAGS)
        undo.callback(os.close, descriptor)
        if file_identity(descriptor) == identity:
            file = ModelFile(descriptor, os.fstat(descriptor).st_size)
            undo.pop_all()
            return file
    return None

"""Buffers that a device's process can map, too, once that pays: it then copies by itself, each byte once.

Pages that processes share are small ones as a rule, which take three times as long to come and go. So a buffer has pages
of this process's own until it was copied a few times. Linux alone.
"""

import os
import sys
from contextlib import suppress

from worker.backends.host_memory import PAGE_BYTES, AnonymousBuffer, resident_bytes
from worker.backends.raw_pages import POPULATE_READ, fault_in, map_anonymous, map_shared
from worker.core.errors import OutOfMemoryError
from worker.core.sure_lock import SureLock
from worker.core.system_calls import file_in_memory

_COPIES = 2
"""So often a buffer is copied first: out of a device and back is all that happens to most."""

_STEP_BYTES = 64 * 2**20
"""So much is twice in memory while pages are moved."""


class MappableBuffer(AnonymousBuffer):
    """An anonymous map whose pages can be moved to where other processes of this user's map them."""

    def __init__(self, size_bytes: int, alignment: int | None = None) -> None:
        super().__init__(size_bytes, alignment)
        self._moving = SureLock()
        # All mutable state besides: how often it was copied, and what names its pages once they were moved.
        self._copies = 0
        self._descriptor: int | None = None

    def path_to_copy(self) -> str | None:
        """Note one copy to or from a device's process. Returns where that finds the bytes; None where it can't, or not yet.

        No caller may write to them meanwhile.
        """
        with self._moving:
            self._copies += 1
            if self._copies == _COPIES + 1:
                with suppress(OSError, OutOfMemoryError):  # then it stays as it is
                    self._move()
            return None if self._descriptor is None else f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def _move(self) -> None:
        """Put shared pages of the same content in the place of its own. What fails leaves the content as it is."""
        descriptor = file_in_memory("memory-worker-block")
        if descriptor is None or sys.platform == "win32":
            return
        try:
            os.ftruncate(descriptor, self.actual_bytes)
            written = 0
            for start in range(0, self.actual_bytes, _STEP_BYTES):
                length = min(_STEP_BYTES, self.actual_bytes - start)
                while self.touched and written < start + length:
                    with memoryview(self._map)[
                        self._offset + written : self._offset + start + length
                    ] as left:
                        written += os.pwrite(descriptor, left, written)
                map_shared(descriptor, start, length, self.address + start)
                fault_in(self.address + start, length, POPULATE_READ)  # so that they count as this process's
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self.touched = descriptor, True

    def close(self) -> int | None:
        """Unmap; the system has the pages back when this returns, whoever else maps them.

        None where it refuses the map that this takes: then it has them back once no other process maps them.
        """
        if self._descriptor is None:
            return super().close()
        resident = resident_bytes(self.address, self.actual_bytes)
        try:
            # A copy that was cut short may hold a view: it is to find pages here, of whatever content.
            map_anonymous(self.actual_bytes, self.address)
            os.ftruncate(self._descriptor, 0)
        except OutOfMemoryError:
            # Such a copy finds those that are there. Who else maps them sees by the size that they are given up.
            os.ftruncate(self._descriptor, self.actual_bytes + PAGE_BYTES)
            resident = None
        finally:
            os.close(self._descriptor)
            self.unmap()
        return resident

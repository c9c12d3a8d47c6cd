"""A file that is mapped while ``TouchGuard`` may put other memory in the place of what is touched of it."""

import mmap
import os
from contextlib import suppress

from worker.backends.host_memory import address_of
from worker.backends.raw_pages import map_anonymous

_PAGE_BYTES = mmap.ALLOCATIONGRANULARITY


class GuardedMap:
    """A Spoilable, which owns the descriptor and the map."""

    def __init__(self, descriptor: int, mapped: mmap.mmap, length: int) -> None:
        self.descriptor = descriptor
        self._map = mapped
        self._address = address_of(mapped)
        # Mutable: what is being touched, as (first byte, bytes), and whether other memory is in its place.
        self._touched = (0, length)
        self.spoiled = False

    def is_short(self) -> bool:
        """Tell whether not all that is being touched is in the file any more."""
        return os.fstat(self.descriptor).st_size < sum(self._touched)

    def spoil(self) -> None:
        """Put other memory in its place, at the same addresses. OutOfMemoryError."""
        start, length = self._touched
        first = start // _PAGE_BYTES * _PAGE_BYTES
        map_anonymous(-(-(start + length - first) // _PAGE_BYTES) * _PAGE_BYTES, self._address + first)
        self.spoiled = True

    def close(self) -> None:
        """Give it up."""
        with suppress(BufferError):  # a tensor or a write that was cut short holds a view; its end unmaps
            self._map.close()
        os.close(self.descriptor)

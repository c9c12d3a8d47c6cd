"""Reading a file at a position, from several threads at once.

Read, not mapped: a file that is cut short while it is read is an error here, where a mapping would end the
process with a signal; and the pages of a mapping would count as this process's memory beside the block.
"""

import contextlib
import os
import sys

from worker.backends.mapped_file import file_identity
from worker.core.sure_lock import SureLock

_AHEAD_BYTES = 64 * 2**20
_AHEAD_FROM_BYTES = 2**20
"""Two readers in turn look random to the system, which then reads too little ahead: it is told what is next."""


class PositionalFile:
    """An open descriptor, which it owns."""

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.identity = file_identity(descriptor)
        """As it was when it was opened."""
        # All mutable state: the descriptor until it is closed, and on Windows its position.
        self._descriptor: int | None = descriptor
        self._lock = SureLock()

    @property
    def descriptor(self) -> int:
        """The open descriptor. ValueError once it is closed."""
        if self._descriptor is None:
            raise ValueError("the file is closed")
        return self._descriptor

    def read_into(self, offset: int, target: memoryview) -> int:
        """Fill ``target``. Returns the bytes read, which are fewer only where the file ends."""
        descriptor = self.descriptor
        self._read_ahead(offset, target.nbytes)
        done = 0
        while done < target.nbytes:
            with target[done:] as rest:
                got = self._read(descriptor, offset + done, rest)
            if got == 0:
                break
            done += got
        return done

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _read_ahead(self, offset: int, length: int) -> None:
        if sys.platform == "linux" and self._descriptor is not None and length >= _AHEAD_FROM_BYTES:
            with contextlib.suppress(OSError):  # a hint: a file system may not take it
                os.posix_fadvise(self._descriptor, offset + _AHEAD_BYTES, length, os.POSIX_FADV_WILLNEED)

    def _read(self, descriptor: int, offset: int, into: memoryview) -> int:
        if sys.platform != "win32":
            return os.preadv(descriptor, [into], offset)
        else:  # noqa: RET505 - Windows has one position a descriptor: there, readers take turns
            with self._lock:
                os.lseek(descriptor, offset, os.SEEK_SET)
                with open(descriptor, "rb", buffering=0, closefd=False) as file:
                    return file.readinto(into) or 0

"""Reading a file at a position, from several threads at once.

Read, not mapped: a file that is cut short while it is read is an error here, where a mapping would end the
process with a signal; and the pages of a mapping would count as this process's memory beside the block.
"""

import os
import sys
from pathlib import Path

from worker.backends.mapped_file import file_identity, read_ahead
from worker.core.records import FileRange
from worker.core.sure_lock import SureLock

_AHEAD_BYTES = 64 * 2**20
_AHEAD_FROM_BYTES = 2**20


class PositionalFile:
    """An open descriptor, which it owns: where it can't be looked at, it is closed. OSError as the system gives it."""

    def __init__(self, descriptor: int, size_bytes: int, path: Path) -> None:
        self.size_bytes = size_bytes
        self._path = path
        # All mutable state: the descriptor until it is closed, and on Windows its position.
        self._descriptor: int | None = descriptor
        self._lock = SureLock()
        try:
            self.identity = file_identity(descriptor)
            """As it was when it was opened."""
        except BaseException:
            self.close()
            raise

    @property
    def descriptor(self) -> int:
        """The open descriptor. ValueError once it is closed."""
        if self._descriptor is None:
            raise ValueError("the file is closed")
        return self._descriptor

    def range(self, start: int, size_bytes: int) -> FileRange:
        """Return a part of it, for who maps it."""
        return FileRange(self.descriptor, start, size_bytes, self.identity, str(self._path))

    def read_into(self, offset: int, target: memoryview) -> int:
        """Fill ``target``. Returns the bytes read, which are fewer only where the file ends."""
        descriptor = self.descriptor
        if target.nbytes >= _AHEAD_FROM_BYTES:
            read_ahead(descriptor, offset + _AHEAD_BYTES, target.nbytes)
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

    def _read(self, descriptor: int, offset: int, into: memoryview) -> int:
        if sys.platform != "win32":
            return os.preadv(descriptor, [into], offset)
        else:  # noqa: RET505 - Windows has one position a descriptor: there, readers take turns
            with self._lock:
                os.lseek(descriptor, offset, os.SEEK_SET)
                with open(descriptor, "rb", buffering=0, closefd=False) as file:
                    return file.readinto(into) or 0

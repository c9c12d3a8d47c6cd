"""The only way out to the host: whole frames, one after the other."""

import errno
import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress

from worker.core.sure_lock import SureLock
from worker.stream.descriptors import polled

_BATCH_BYTES = 64 * 1024
"""What a pipe takes at once."""
_AT_ONCE_BYTES = 512 if sys.platform != "linux" else 4096
"""A pipe that takes anything takes so much without waiting (PIPE_BUF)."""

if sys.platform == "win32":
    _WRITABLE, _GONE = 0, 0
else:
    _WRITABLE, _GONE = select.POLLOUT, select.POLLERR | select.POLLHUP


class FrameWriter:
    """Writes to a descriptor. A host that does not read makes the writer wait, and nothing keeps frames for it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._os_write = os.write  # itself, whatever is put in its place: see ``_write_some``
        self._lock = SureLock()
        self._broken = False
        self._when_broken: tuple[Callable[[OSError], None], ...] = ()
        # The reading thread's replies of the present chunk: one system call for all of them.
        self._batch: list[bytes] = []
        self._batch_bytes = 0

    def when_broken(self, call: Callable[[OSError], None]) -> None:
        """Call this once, with the reason, when nothing more can be written."""
        self._when_broken = (*self._when_broken, call)

    def _tell(self, broke: OSError) -> None:
        for call in self._when_broken:
            call(broke)

    def write(self, frame: bytes) -> None:
        """Write frames now, from any thread. Once no reader is left they are dropped."""
        self._lock.acquire()
        try:
            broke = self._write(frame)
        finally:
            self._lock.release()
        if broke is not None:
            self._tell(broke)

    def write_made(self, make: Callable[[], bytes]) -> None:
        """Write a frame that is made under the lock, so that a number in it is in the stream's order."""
        with self._lock:
            broke = self._write(make())
        if broke is not None:
            self._tell(broke)

    def write_made_at_once(self, make: Callable[[], bytes], size_bytes: int) -> bool:
        """Write a frame of about this size if that need not wait for anybody. Returns whether it did."""
        if size_bytes > _AT_ONCE_BYTES or not self._lock.acquire(blocking=False):
            return False
        broke = None
        try:
            if not self._broken:
                if not polled(self._fd, _WRITABLE, 0):
                    return False
                broke = self._write(make())
        finally:
            self._lock.release()
        if broke is not None:
            self._tell(broke)
        return True

    def _write(self, frame: bytes) -> OSError | None:
        """Write, and return why where it was just now that nothing more can be.

        MemoryError means that nothing was written: what needs memory comes first.
        """
        if self._broken:
            return None
        size = len(frame)
        try:
            written = self._write_some(frame, size)
            while written < size:
                written += self._write_some(memoryview(frame)[written:], size - written)
        except OSError as error:
            self._broken = True
            return error
        return None

    def _write_some(self, left: bytes | memoryview, size: int) -> int:
        try:
            return self._os_write(self._fd, left)
        except BlockingIOError:  # somebody who shares it made it non-blocking
            polled(self._fd, _WRITABLE, None)
            return 0
        except MemoryError:
            return size  # it was written, all of it as blocking writes are: only the number found no memory

    def reader_is_gone(self) -> bool:
        """Tell whether no reader is left; False where the system cannot say."""
        return bool(polled(self._fd, 0, 0) & _GONE)

    def batch(self, frame: bytes) -> bool:
        """Write with the next ``flush``, which is due where this returns True. For the reading thread alone.

        MemoryError: it is not in the batch.
        """
        total = self._batch_bytes + len(frame)
        self._batch.append(frame)
        self._batch_bytes = total
        return total >= _BATCH_BYTES

    def flush(self) -> None:
        """Write what was batched."""
        batch = self._batch
        if not batch:
            return
        if len(batch) > 1:
            with suppress(MemoryError):
                batch[:] = [b"".join(batch)]
        while batch:  # taken out once it is written: where memory is short before that, it is written later
            self.write(batch[0])
            del batch[0]
        self._batch_bytes = 0


def is_gone(error: OSError) -> bool:
    """Tell whether it says that no reader is left, and not that what was written could not be kept."""
    return isinstance(error, BrokenPipeError) or error.errno in {errno.EPIPE, errno.ECONNRESET, errno.EINVAL}

"""The only way out to the host: whole frames, one after the other."""

import os
import select
import sys
import threading
from collections.abc import Callable

_BATCH_BYTES = 64 * 1024
"""What a pipe takes at once."""


class FrameWriter:
    """Writes to a descriptor. A host that does not read makes the writer wait, and nobody keeps frames for it."""

    def __init__(self, fd: int, on_broken: Callable[[], None]) -> None:
        self._fd = fd
        self._on_broken = on_broken
        self._lock = threading.Lock()
        self._broken = False
        # The reading thread's replies of the present chunk: one system call for all of them.
        self._batch: list[bytes] = []
        self._batch_bytes = 0

    def write(self, frame: bytes) -> None:
        """Write frames now, from any thread. Once the host is gone they are dropped."""
        with self._lock:
            broke = self._write(frame)
        if broke:
            self._on_broken()

    def write_made(self, make: Callable[[], bytes]) -> None:
        """Write a frame that is made under the lock, so that a number in it is in the stream's order."""
        with self._lock:
            broke = self._write(make())
        if broke:
            self._on_broken()

    def _write(self, frame: bytes) -> bool:
        """Write, and tell whether it was just now that nobody reads any more."""
        if self._broken:
            return False
        try:
            written = os.write(self._fd, frame)
            while written < len(frame):
                written += os.write(self._fd, memoryview(frame)[written:])
        except OSError:
            self._broken = True
        return self._broken

    def reader_is_gone(self) -> bool:
        """Tell whether nobody can read any more; False where the system cannot say."""
        if sys.platform == "win32":
            return False
        poller = select.poll()
        poller.register(self._fd, 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poller.poll(0))

    def batch(self, frame: bytes) -> None:
        """Write with the next ``flush``. For the reading thread alone."""
        self._batch.append(frame)
        self._batch_bytes += len(frame)
        if self._batch_bytes >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was batched."""
        if self._batch:
            frames = self._batch[0] if len(self._batch) == 1 else b"".join(self._batch)
            self._batch.clear()
            self._batch_bytes = 0
            self.write(frames)

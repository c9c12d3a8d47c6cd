"""Reading the host's bytes so that none is lost, whatever fails meanwhile."""

import io

from worker.core.log import log
from worker.core.shortages import patiently
from worker.stream.descriptors import polled

READ_BYTES = 1 << 16
_SMALL = 256
"""Numbers up to this exist already: telling how much was read then needs no memory."""
_READABLE = 1
"""POLLIN."""
_UNUSED = b"\xff"
"""No byte of UTF-8."""


class Input:
    """Reads into one buffer. ``os.read`` makes room for what it returns only after reading: that may fail."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._readinto = io.FileIO(fd, "rb", closefd=False).readinto
        self._buffer = bytearray(_UNUSED * READ_BYTES)
        self._view = memoryview(self._buffer)
        self._filling = memoryview(bytes(self._buffer))
        # All mutable state: how much was read into the buffer, and what was taken out of it and not yet elsewhere.
        self._count: int | None = None
        self.chunk: bytes | None = None

    def fill(self) -> None:
        """Have ``chunk`` be what came, at the latest when something comes; empty at the end. MemoryError: call again."""
        while (count := self._count) is None:
            try:
                self._count = self._readinto(self._buffer)
            except (MemoryError, OSError) as error:
                self._count = self._after(error)
            if self._count is None:  # somebody who shares it made it non-blocking
                polled(self._fd, _READABLE, None)
        chunk = bytes(self._view[:count])
        if count > _SMALL:
            self._view[_SMALL:count] = self._filling[_SMALL:count]
        self.chunk = chunk
        self._count = None

    def has_some(self) -> bool:
        """Tell whether something came; False where the system cannot say."""
        return bool(polled(self._fd, _READABLE, 0))

    def _after(self, error: Exception) -> int:
        """Return how much was read all the same."""
        if isinstance(error, MemoryError):
            # It was read, and only the number found no memory: what is behind it was never written to.
            return patiently(lambda: len(self._buffer.rstrip(_UNUSED)))
        log("warning", "the input cannot be read", error=str(error))
        return 0

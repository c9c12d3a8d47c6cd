"""Small messages between a worker and a device's process: four bytes of length, then JSON.

JSON and not marshal: what is read may come from a process whose memory a driver has just ruined, and marshal
must not be fed that (docs/decisions/0010).
"""

import json
import os
import struct
import sys
from typing import Any

from worker.core.sure_lock import SureLock

if sys.platform != "win32":
    import select

_LENGTH = struct.Struct("<I")
_LONGEST_BYTES = 16 * 2**20
"""Far longer than any message: what claims to be longer is noise on the pipe."""

_READ_BYTES = 2**16

_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode

Message = dict[str, Any]


class BrokenFrameError(Exception):
    """What came is no message: the other process, or its memory, is not to be trusted any more."""


class FramePipe:
    """One end. Sending is safe from several threads; receiving is one thread's at a time."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._sending = SureLock()
        # All mutable state: what came and is no whole message yet, and whether it can be sent.
        self._came = b""
        self._open = True
        if sys.platform != "win32":
            self._poll = select.poll()
            self._poll.register(read_fd, select.POLLIN)

    def send(self, message: Message) -> None:
        """Write a message, whole. BrokenPipeError if there is no reader, OSError if this end is closed."""
        body = _encode(message).encode()
        frame = _LENGTH.pack(len(body)) + body
        with self._sending:
            if not self._open:
                raise BrokenPipeError
            written = os.write(self._write_fd, frame)
            while written < len(frame):
                written += os.write(self._write_fd, memoryview(frame)[written:])

    def receive(self, wait_s: float | None = None) -> Message | None:
        """Return the next message, None at the end. BrokenFrameError for what is none.

        TimeoutError if none came within the time; Windows waits without end, for pipes can't be asked there.
        """
        while (body := self._next_body()) is None:
            if wait_s is not None and sys.platform != "win32" and not self._poll.poll(-(-wait_s * 1000 // 1)):
                raise TimeoutError
            came = os.read(self._read_fd, _READ_BYTES)
            if not came:
                return None
            self._came += came
        try:
            message = _decode(body.decode())
        except ValueError as error:
            raise BrokenFrameError(body[:100]) from error
        if not isinstance(message, dict):
            raise BrokenFrameError(body[:100])
        return message

    def close_output(self) -> None:
        """Let the other end see the end of its input."""
        with self._sending:
            if self._open:
                self._open = False
                os.close(self._write_fd)

    def close(self) -> None:
        """Close both directions; no thread may be receiving."""
        self.close_output()
        os.close(self._read_fd)

    def _next_body(self) -> bytes | None:
        came = self._came
        if len(came) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(came)
        if length > _LONGEST_BYTES:
            raise BrokenFrameError(length)
        end = _LENGTH.size + length
        if len(came) < end:
            return None
        self._came = came[end:]
        return came[_LENGTH.size : end]

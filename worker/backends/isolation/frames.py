"""Small messages between a worker and a device's process: four bytes of length, then JSON.

JSON and not marshal: what is read may come from a process whose memory a driver has just ruined, and marshal
must not be fed that. It costs 15 us a call more, of about 120.
"""

import json
import os
import struct
import threading
from typing import Any

_LENGTH = struct.Struct("<I")
_LONGEST_BYTES = 16 * 2**20
"""Far longer than any message: what claims to be longer is noise on the pipe."""

_encode = json.JSONEncoder(separators=(",", ":")).encode

Message = dict[str, Any]


class BrokenFrameError(Exception):
    """What came is no message: the other process, or its memory, is not to be trusted any more."""


class FramePipe:
    """One end. Sending is safe from several threads; receiving is one thread's."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._input = open(read_fd, "rb", closefd=True)  # noqa: SIM115 - closed by ``close``
        self._write_fd = write_fd
        self._sending = threading.Lock()
        self._open = True

    def send(self, message: Message) -> None:
        """Write a message, whole. BrokenPipeError if nobody reads, OSError if this end is closed."""
        body = _encode(message).encode()
        left = memoryview(_LENGTH.pack(len(body)) + body)
        with self._sending:
            if not self._open:
                raise BrokenPipeError
            while left:
                left = left[os.write(self._write_fd, left) :]

    def receive(self) -> Message | None:
        """Return the next message, None at the end. BrokenFrameError for what is none."""
        head = self._input.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        if length > _LONGEST_BYTES:
            raise BrokenFrameError(length)
        body = self._input.read(length)
        if len(body) < length:
            return None
        try:
            message = json.loads(body)
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
        """Close both directions; nobody may be receiving."""
        self.close_output()
        self._input.close()

"""Small messages between a worker and a device's process: a JSON array a line.

JSON and not marshal: what is read may come from a process whose memory a driver has just ruined, and marshal
must not be fed that (docs/decisions/0010). Another interpreter than the worker's may lack orjson; its messages are
the same.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from worker.core.sure_lock import SureLock

if sys.platform != "win32":
    import select

orjson: Any
try:
    import orjson
except ImportError:  # the standard library's JSON does, in 2 us more a message
    orjson = None

_LONGEST_BYTES = 16 * 2**20
"""Far longer than any message: what claims to be longer is noise on the pipe."""

_FIRST_READ_BYTES, _READ_BYTES = 2**10, 2**16
"""Nearly all messages come whole with the first; memory for the second would cost as much as the read."""

_any_values = json.JSONEncoder(separators=(",", ":")).encode
loads: Callable[[bytes], Any] = json.loads if orjson is None else orjson.loads
"""Reads a line. ValueError, RecursionError."""

_BEGINS = ord("[")

Message = list[Any]
"""A call is [number, what to do, arguments, nanoseconds left]; [number] cancels it. Its answer is [number, result] or
[number, None, error]; before that may come reports, [number, None, None, [completed, total]], and questions, [number, None,
None, None, question], each of which is answered by [number, reply]."""


class BrokenFrameError(Exception):
    """What came is no message: the other process, or its memory, is not to be trusted any more."""


class FramePipe:
    """One end. Sending is safe from several threads; receiving is one thread's at a time."""

    def __init__(self, read_fd: int, write_fd: int, *, waits_briefly: bool = False) -> None:
        """``waits_briefly``: receiving may be given a time limit (not on Windows: pipes can't be asked there)."""
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._sending = SureLock()
        # All mutable state: what came and is no whole message yet, and whether it can be sent.
        self._came = b""
        self._open = True
        self._poll: Callable[[float | None], object] | None = None
        """Waits until there is something to read, for so many milliseconds: a read that finds nothing costs more."""
        if sys.platform != "win32" and waits_briefly:
            waiting = select.poll()
            waiting.register(read_fd, select.POLLIN)
            self._poll = waiting.poll

    def send(self, message: Message, *, any_values: bool = False) -> None:
        """Write a message, whole. BrokenPipeError if there is no reader, OSError if this end is closed.

        ``any_values``: it may hold numbers that are none, which the faster writer would drop.
        """
        text = _any_values_line(message) if any_values else line(message)
        self._sending.acquire()
        try:
            if not self._open:
                raise BrokenPipeError
            written = os.write(self._write_fd, text)
            while written < len(text):
                written += os.write(self._write_fd, memoryview(text)[written:])
        finally:
            self._sending.release()

    def receive(self, wait_s: float | None = None) -> Message | None:
        """Return the next message, None at the end. BrokenFrameError for what is none.

        TimeoutError if none came within the time, where that can be limited.
        """
        came = self._came
        looked = 0
        while (end := came.find(b"\n", looked)) < 0:
            if came and (came[0] != _BEGINS or len(came) > _LONGEST_BYTES):
                raise BrokenFrameError(came[:100])
            if self._poll is not None and not self._poll(None if wait_s is None else -(-wait_s * 1000 // 1)):
                raise TimeoutError
            more = os.read(self._read_fd, _READ_BYTES if came else _FIRST_READ_BYTES)
            if not more:
                return None
            looked = len(came)
            came = self._came = came + more if came else more
        self._came = came[end + 1 :]
        try:
            message = loads(came[:end])
        except (RecursionError, ValueError):
            message = _any_values_of(came[:end])
        if type(message) is not list:
            raise BrokenFrameError(came[:100])
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


def line(message: Message) -> bytes:
    """Return a message as it is written."""
    if orjson is not None:
        try:
            text: bytes = orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError:  # halves of characters, as in names that are no UTF-8
            pass
        else:
            return text
    return _any_values_line(message)


def _any_values_line(message: Message) -> bytes:
    return (_any_values(message) + "\n").encode()


def _any_values_of(text: bytes) -> Any:
    try:
        return json.loads(text)  # it may have numbers that are none
    except (RecursionError, ValueError) as error:
        raise BrokenFrameError(text[:100]) from error

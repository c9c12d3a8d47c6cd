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

_dumps: Callable[[Any, None, int], bytes]
if orjson is None:
    _APPEND_NEWLINE = 0

    def _dumps(message: Any, _default: None, _option: int) -> bytes:
        return _any_values_line(message)

else:
    _dumps, _APPEND_NEWLINE = orjson.dumps, orjson.OPT_APPEND_NEWLINE

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
        self._begin_sending, self._end_sending = self._sending.acquire, self._sending.release
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
        self._begin_sending()
        try:
            if not self._open:
                raise BrokenPipeError
            written = os.write(self._write_fd, text)
            while written < len(text):
                written += os.write(self._write_fd, memoryview(text)[written:])
        finally:
            self._end_sending()

    def receive(self, wait_s: float | None = None) -> Message | None:
        """Return the next message, None at the end. BrokenFrameError for what is none.

        TimeoutError if none came within the time, where that can be limited.
        """
        text = self._came
        if not text:
            if self._poll is not None and not self._poll(None if wait_s is None else wait_s * 1000):
                raise TimeoutError
            text = os.read(self._read_fd, _FIRST_READ_BYTES)
        if text.find(b"\n") + 1 != len(text) or not text:  # it is not one message, whole, as nearly all are
            whole = self._first_of(text, wait_s)
            if whole is None:
                return None
            text = whole
        elif self._came:
            self._came = b""
        try:
            message = loads(text)
        except (RecursionError, ValueError):
            message = _any_values_of(text)
        if type(message) is not list:
            raise BrokenFrameError(text[:100])
        return message

    def _first_of(self, came: bytes, wait_s: float | None) -> bytes | None:
        """Return the first message of what came, reading on where that is none yet, and keep the rest. None at the end."""
        self._came = came
        looked = 0
        while came:
            end = came.find(b"\n", looked) + 1
            if end:
                self._came = came[end:]
                return came[:end]
            if came[0] != _BEGINS or len(came) > _LONGEST_BYTES:
                raise BrokenFrameError(came[:100])
            if self._poll is not None and not self._poll(None if wait_s is None else wait_s * 1000):
                raise TimeoutError
            more = os.read(self._read_fd, _READ_BYTES)
            if not more:
                break
            looked = len(came)
            came = self._came = came + more
        return None

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
    try:
        return _dumps(message, None, _APPEND_NEWLINE)
    except TypeError:  # halves of characters, as in names that are no UTF-8
        return _any_values_line(message)


def _any_values_line(message: Message) -> bytes:
    return (_any_values(message) + "\n").encode()


def _any_values_of(text: bytes) -> Any:
    try:
        return json.loads(text)  # it may have numbers that are none
    except (RecursionError, ValueError) as error:
        raise BrokenFrameError(text[:100]) from error

"""Small messages between a worker and a device's process: a JSON array a line.

JSON and not marshal: what is read may come from a process whose memory a driver has just ruined, and marshal
must not be fed that (docs/decisions/0010). Another interpreter than the worker's may lack orjson; its messages are
the same.
"""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
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

_FIRST_READ_BYTES, _READ_BYTES = 479, 2**16
"""Nearly all messages come whole with the first, whose memory is of the interpreter's own pools: 512 bytes with the object's 33.
Other memory costs a twentieth of a call, for the second as much as the read."""

_any_values = json.JSONEncoder(separators=(",", ":")).encode


def any_values_line(message: Any) -> bytes:
    """Return a message as it is written, which may hold numbers that are none, or halves of characters."""
    return (_any_values(message) + "\n").encode()


loads: Callable[[bytes], Any]
"""Reads a line. ValueError, RecursionError."""
dumps: Callable[[Any, None, int], bytes]
"""Returns a message as it is written, called with it, None and ``AS_LINE``. TypeError for halves of characters, as in
names that are no UTF-8. On the way of every call it is called directly: anything around it costs as much as itself."""
if orjson is None:
    loads, AS_LINE = json.loads, 0

    def dumps(message: Any, _default: None, _option: int) -> bytes:
        """Do what orjson does."""
        return any_values_line(message)

else:
    loads, dumps, AS_LINE = orjson.loads, orjson.dumps, orjson.OPT_APPEND_NEWLINE

_BEGINS = ord("[")
_CLOSED = -1
_WAKE = b"\0"
_REST_MS = 10.0
"""How long the rest of a message is waited for at a time, and what comes after a wake."""

_read, _write = os.read, os.write

Message = list[Any]
"""A call is [number, what to do, arguments, nanoseconds left]; [number] cancels it. Its answer is [number, result] or
[number, None, error]; before that may come reports, [number, None, None, [completed, total]], and questions, [number, None,
None, None, question], each of which is answered by [number, reply]."""


class BrokenFrameError(Exception):
    """What came is no message: the other process, or its memory, is not to be trusted any more."""


class FramePipe:
    """One end. Sending is safe from several threads; receiving is one thread's at a time."""

    def __init__(
        self, read_fd: int, write_fd: int, wake_fd: int | None = None, *, waits_briefly: bool = False
    ) -> None:
        """``waits_briefly``: receiving may be given a time limit (not on Windows: pipes can't be asked there).

        ``wake_fd`` is another way into what is read, for ``wake``; there is no end of it while that is open.
        """
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._wake_fd = wake_fd
        self._waking = SureLock()
        self._sending = SureLock().lock
        # All mutable state: the descriptors while they are open, what came and is no whole message yet, and how many
        # messages were sent and received: both ends count alike.
        self._came = b""
        self.sent = self.received = 0
        self._poll: Callable[[float | None], object] | None = None
        """Waits until there is something to read, for so many milliseconds: a read that finds nothing costs more."""
        self._look: Callable[[float | None], object] | None = None
        """As that, for ``wake``: one can't be in use twice."""
        if sys.platform != "win32" and waits_briefly:
            waiting, looking = select.poll(), select.poll()
            waiting.register(read_fd, select.POLLIN)
            looking.register(read_fd, select.POLLIN)
            self._poll, self._look = waiting.poll, looking.poll

    def send(self, message: Message) -> None:
        """Write a message, whole. OSError if there is no reader, or this end is closed."""
        self.write(line(message))

    def write(self, text: bytes) -> None:
        """Write a line, whole. OSError as ``send``."""
        self._sending.acquire()
        try:
            self.put(text)
        finally:
            self._sending.release()

    def put(self, text: bytes) -> None:
        """Write a line, whole, while no other thread may write. OSError as ``send``."""
        self.sent += 1  # before another thread can run: figures that are taken from here on tell of it
        written = _write(self._write_fd, text)
        if written != len(text):
            self._write_rest(text, written)

    def exchange(self, text: bytes) -> Any:
        """Write a line and return the message that comes next: ``write`` and ``receive`` in one, for what is done most.

        It waits for as long as it takes, or until ``wake``: TimeoutError. What comes need not be a list: whoever takes it
        apart finds that out. Only what came is counted, as only that is asked for at this end.
        """
        self._sending.acquire()
        try:
            written = _write(self._write_fd, text)
            if written != len(text):
                self._write_rest(text, written)
        finally:
            self._sending.release()
        if self._came:
            return self.receive(_REST_MS)
        text = _read(self._read_fd, _FIRST_READ_BYTES)
        try:
            message = loads(text)
        except (RecursionError, ValueError):
            return self._receive_rest(text, _REST_MS)
        self.received += 1
        return message

    def answer(self, text: bytes) -> Any:
        """Do ``put`` and ``receive`` in one, as ``exchange`` at the other end, with no limit of time."""
        self.sent += 1  # as above
        written = _write(self._write_fd, text)
        if written != len(text):
            self._write_rest(text, written)
        if self._came:
            return self.receive()
        text = _read(self._read_fd, _FIRST_READ_BYTES)
        try:
            return loads(text)
        except (RecursionError, ValueError):
            return self._receive_rest(text, None)

    def wake(self) -> None:
        """Have who waits in ``exchange`` look up, by a byte that no message has: it may come in the middle of one."""
        with self._waking:
            if self._wake_fd is not None and self._is_empty():
                _write(self._wake_fd, _WAKE)

    def stop_waking(self) -> None:
        """Wake for the last time, and let the other end's end be seen."""
        self.wake()
        with self._waking:
            if self._wake_fd is not None:
                os.close(self._wake_fd)
                self._wake_fd = None

    def _is_empty(self) -> bool:
        """Tell whether nothing waits to be read: what does wakes as well, and there may be no place for more."""
        return self._look is not None and not self._look(0)

    def _write_rest(self, text: bytes, written: int) -> None:
        while written < len(text):
            written += _write(self._write_fd, memoryview(text)[written:])

    def receive(self, wait_ms: float | None = None) -> Message | None:
        """Return the next message, None at the end. BrokenFrameError for what is none.

        TimeoutError if none came within the time, where that can be limited.
        """
        text = self._came
        if text:
            self._came = b""
        else:
            if self._poll is not None and not self._poll(wait_ms):
                raise TimeoutError
            text = _read(self._read_fd, _FIRST_READ_BYTES)
        try:
            message = loads(
                text
            )  # one message, whole, as nearly all are; the end of its line may be yet to come
        except (RecursionError, ValueError):
            return self._receive_rest(text, wait_ms)
        if type(message) is not list:
            raise BrokenFrameError(text[:100])
        self.received += 1
        return message

    def _receive_rest(self, came: bytes, wait_ms: float | None) -> Message | None:
        """Return the first message of what came and is not just one; as ``receive``."""
        text = self._first_of(came, wait_ms)
        if not text:
            return None
        message = _message_in(text)
        if type(message) is not list:
            raise BrokenFrameError(text[:100])
        self.received += 1
        return message

    def _first_of(self, came: bytes, wait_ms: float | None) -> bytes:
        """Return the first message of what came, reading on where that is none yet, and keep the rest. Nothing at the end."""
        if not came:
            return b""
        came, looked = came.replace(_WAKE, b""), 0
        while True:
            if not looked:
                came = came.lstrip(b"\n")  # the end of a line that was read without it
            self._came = came
            end = came.find(b"\n", looked) + 1
            if end:
                self._came = came[end:]
                return came[:end]
            if (came and came[0] != _BEGINS) or len(came) > _LONGEST_BYTES:
                raise BrokenFrameError(came[:100])
            if self._poll is not None and not self._poll(wait_ms):
                raise TimeoutError
            more = _read(self._read_fd, _READ_BYTES)
            if not more:
                return b""
            looked = len(came)
            came += more.replace(_WAKE, b"")

    def close_output(self) -> None:
        """Let the other end see the end of its input."""
        self._sending.acquire()
        try:
            closing, self._write_fd = self._write_fd, _CLOSED
        finally:
            self._sending.release()
        if closing != _CLOSED:
            os.close(closing)

    def close(self) -> None:
        """Close both directions; no thread may be receiving."""
        self.close_output()
        self.stop_waking()
        closing, self._read_fd = self._read_fd, _CLOSED
        os.close(closing)


def line(message: Message) -> bytes:
    """Return a message as it is written."""
    try:
        return dumps(message, None, AS_LINE)
    except TypeError:
        return any_values_line(message)


def _message_in(text: bytes) -> Any:
    with suppress(RecursionError, ValueError):
        return loads(text)
    try:
        return json.loads(text)  # it may have numbers that are none
    except (RecursionError, ValueError) as error:
        raise BrokenFrameError(text[:100]) from error

"""Passing shortages of the system's, of threads, descriptors or the worker's own memory: what they are on the wire.

And what is held in reserve for them.
"""

import _thread
import errno
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from worker.core.errors import OutOfMemoryError
from worker.core.sure_lock import SureEvent, SureLock

_TRIES = 200
_RESERVED_BYTES = 256 * 1024
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
_OF_RUNTIME = {"can't start new thread": "threads", "can't allocate lock": "memory"}
"""What Python says by a RuntimeError."""

T = TypeVar("T")


class Reserve:
    """Memory and descriptors that no caller uses, so that in a shortage an answer finds some. Thread-safe."""

    def __init__(self) -> None:
        self._lock = SureLock()
        # All mutable state.
        self._memory: bytearray | None = None
        self._descriptors: list[int] = []

    def fill(self) -> None:
        """Take both, where they are to be had."""
        with self._lock, suppress(MemoryError, OSError):
            self._memory = self._memory or bytearray(_RESERVED_BYTES)
            while len(self._descriptors) < 2:  # noqa: PLR2004 - a folder, and a file in it
                self._descriptors.append(os.open(os.devnull, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)))

    def release(self) -> None:
        """Give both up, until they are filled again."""
        with self._lock:
            self._memory = None
            while self._descriptors:
                os.close(self._descriptors.pop())


RESERVE = Reserve()


def patiently(make: Callable[[], T]) -> T:
    """Do what costs only memory of our own, again and again while there is none: shortages pass.

    MemoryError after a second.
    """
    tries = 0
    while True:
        try:
            return make()
        except MemoryError:
            RESERVE.release()
            if tries >= _TRIES:
                raise
            tries += 1
            if tries > 8:  # noqa: PLR2004 - the first tries meet what is over by then
                time.sleep(0.005)


def with_reserve(read: Callable[[], T]) -> T:
    """Do what takes a descriptor for a moment; where there is none left, with those that are held in reserve.

    A limit that can't be read for want of one must not look like no limit. OSError as ``read`` raises it.
    """
    try:
        return read()
    except OSError as error:
        if error.errno not in _NO_DESCRIPTOR:
            raise
    RESERVE.release()
    try:
        return read()
    finally:
        RESERVE.fill()


def start_thread(run: Callable[[], object], name: str) -> SureEvent:
    """Run something on a thread of its own, which ends with the process. OutOfMemoryError where there is none.

    Returns an event that is set once it is over.
    """
    ended = SureEvent()

    def named() -> None:
        try:
            with suppress(MemoryError):
                threading.current_thread().name = name
            run()
        finally:
            patiently(ended.set)

    try:
        # Not threading.Thread: its start waits for ever where the new thread finds no memory to say that it runs.
        _thread.start_new_thread(named, ())
    except (RuntimeError, MemoryError) as error:
        raise _short("threads", "the system starts no more threads") from error
    return ended


def shortage(error: BaseException) -> OutOfMemoryError | None:
    """Return what an exception is on the wire if it says that the system is short of something; else None."""
    if isinstance(error, MemoryError):
        return _short("memory", "the worker's own memory is short")
    if isinstance(error, RuntimeError) and str(error) in _OF_RUNTIME:
        return _short_of(_OF_RUNTIME[str(error)])
    if isinstance(error, OSError):
        if error.errno in _NO_DESCRIPTOR:
            return _short("descriptors", "no more files can be open")
        if error.errno in {errno.ENOMEM, errno.EAGAIN}:
            return _short_of("memory" if error.errno == errno.ENOMEM else "threads")
    return None


def _short_of(resource: str) -> OutOfMemoryError:
    return _short(resource, f"the system is short of {resource}")


def _short(resource: str, what: str) -> OutOfMemoryError:
    return OutOfMemoryError(f"{what} just now; try again", resource=resource)

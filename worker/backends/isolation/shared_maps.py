"""Files that a host maps, mapped by a device's process too and kept: copies to and from them go through no slot.

The host may cut such a file short at any time, and a touch of a page that is gone is a signal that ends the process
(SIGBUS). While copies run it ends them instead: Python's own handler only notes the signal and returns, so that the
touch is tried again and again; the thread that is told of it puts memory of this process's own in the place of the
maps in use, and the copies go on to their end, where they fail. Copies have to leave the interpreter's lock free for it.
"""

import ctypes
import mmap
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from worker.backends.host_memory import address_of
from worker.backends.raw_pages import map_anonymous
from worker.core.errors import OutOfMemoryError, UnsupportedError
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureLock

_KEPT = 64
"""Files that are mapped at once, at most, beside those in use."""

_SETTLED_MS = 50
"""A touch that fails is tried again within microseconds: one that comes after this is of something else."""

_TOLD_BYTES = 2**16
"""As many as such a pipe holds: a touch that is tried again and again fills it."""

_AGAIN_S = 0.005
_SHORT_S = 5.0
"""So long is memory waited for to put in a map's place, which for the time being none may be there for."""


class _Map:
    """One file. Mutable: whether it does not lie there any more."""

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.size = size
        self.spoiled = False
        own = path.startswith("/proc/")  # the worker's descriptor: a link, and nobody else's to put there
        self.descriptor = os.open(path, os.O_RDWR | (0 if own else getattr(os, "O_NOFOLLOW", 0)))
        try:
            self._links = os.fstat(self.descriptor).st_nlink
            self._map = mmap.mmap(self.descriptor, size)
        except BaseException:
            os.close(self.descriptor)
            raise
        self._address = address_of(self._map)

    @property
    def view(self) -> memoryview:
        """The bytes."""
        return memoryview(self._map)

    def check(self) -> None:
        """Raise UnsupportedError where not all of the file is there any more."""
        left = os.fstat(self.descriptor).st_size
        if self.spoiled or left < self.size:
            message = f"{self.path} was cut short from outside: {min(left, self.size)} of {self.size} bytes are left;"
            message += " free the allocation and make it anew"
            raise UnsupportedError(message, path=self.path, size_bytes=self.size, left_bytes=left)

    def spoil(self) -> None:
        """Put other memory in its place, at the same addresses."""
        map_anonymous(self.size, self._address)
        self.spoiled = True

    @property
    def is_freed(self) -> bool:
        """Whether the file was removed, which is kept by those alone who map it, or given up by its maker."""
        found = os.fstat(self.descriptor)
        return self.spoiled or found.st_nlink < self._links or not found.st_size

    def close(self) -> None:
        """Give it up."""
        with suppress(BufferError):  # a tensor over it is on its way out; its end unmaps
            self._map.close()
        os.close(self.descriptor)


class SharedMaps:
    """All files that are mapped here. Thread-safe; made by the main thread."""

    def __init__(self) -> None:
        self._lock = SureLock()
        # All mutable state: the maps by path, least recently used first, and those that copies use, once for each:
        # a file may be another by then, and have another map.
        self._maps: dict[str, _Map] = {}
        self._used: list[_Map] = []
        self._guard = _Guard(self._spoil)

    def add(self, path: str, size: int) -> None:
        """Map a file, unless it is mapped. OSError or ValueError where it can't be."""
        with self._lock:
            known = self._maps.get(path)
            if known is not None and known.is_freed and known not in self._used:
                del self._maps[path]  # a path of the worker's descriptors is used again
                known.close()
            self._known(path, size)

    @contextmanager
    def using(self, path: str, size: int) -> Iterator[memoryview]:
        """Hand out a file's bytes, to copy from or to. UnsupportedError where they are not all there."""
        with self._lock:
            used = self._known(path, size)
            used.check()
            if not self._used:
                self._guard.begin()
            self._used.append(used)
        try:
            yield used.view
            used.check()
        finally:
            with self._lock:
                self._used.remove(used)
                if used not in self._used and self._maps.get(path) is not used:
                    used.close()
                if not self._used:
                    self._guard.end()

    def prune(self) -> None:
        """Give up what is not in use, and was removed or is one too many."""
        with self._lock:
            unused = [each for each in self._maps.values() if each not in self._used]
            for each in unused:
                if each.is_freed or len(self._maps) > _KEPT:
                    del self._maps[each.path]
                    each.close()

    def _known(self, path: str, size: int) -> _Map:
        known = self._maps.pop(path, None)
        if known is not None and (known.size != size or known.spoiled):
            if known not in self._used:
                known.close()
            known = None
        found = self._maps[path] = _Map(path, size) if known is None else known
        return found

    def _spoil(self) -> bool:
        """Put other memory in the place of all that is in use. False if that was done, or nothing is. OutOfMemoryError."""
        # Without the lock: whoever holds it may be who waits. Maps in use are not closed.
        used = [each for each in tuple(self._used) if not each.spoiled]
        for each in used:
            each.spoil()
        return bool(used)


if sys.platform == "win32":

    class _Guard:
        """Nothing: there a file that is mapped can't be cut short."""

        def __init__(self, spoil: Callable[[], bool]) -> None:
            """Take what other systems need."""

        def begin(self) -> None:
            """Do nothing."""

        def end(self) -> None:
            """Do nothing."""

else:

    class _Guard:
        """What becomes of SIGBUS: ``spoil`` is called, on a thread of its own, between ``begin`` and ``end``."""

        def __init__(self, spoil: Callable[[], bool]) -> None:
            self._spoil = spoil
            self._watched = False
            self._libc = ctypes.CDLL(None)
            self._libc.signal.argtypes, self._libc.signal.restype = (
                (ctypes.c_int, ctypes.c_void_p),
                ctypes.c_void_p,
            )
            self._told, tell = os.pipe()
            self._signals = memoryview(bytearray(_TOLD_BYTES))
            os.set_blocking(tell, False)
            os.set_blocking(self._told, False)
            signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
            self._before = self._set(None)
            signal.signal(signal.SIGBUS, lambda *_: None)
            self._handler = self._set(self._before)
            """Python's own, in C: it writes the signal's number to the pipe, and returns."""

        def begin(self) -> None:
            """Outlive the signal."""
            if not self._watched:
                start_thread(self._watch, "device-shared-maps")
                self._watched = True
            self._set(self._handler)

        def end(self) -> None:
            """Die of it, as ever."""
            self._set(self._before)

        def _set(self, handler: int | None) -> int | None:
            found: int | None = self._libc.signal(signal.SIGBUS, handler)
            return found

        def _watch(self) -> None:
            """Be there for each signal: without this thread a touch that fails would be tried again for ever."""
            poll = select.poll()
            poll.register(self._told, select.POLLIN)
            short_since: float | None = None
            while True:
                try:
                    poll.poll()
                    if not self._is_told() or self._spoil():
                        short_since = None
                        continue
                    short_since = None
                    poll.poll(_SETTLED_MS)
                    self._is_told()
                    if poll.poll(_SETTLED_MS) and self._is_told():
                        self._set(self._before)  # it is no map of ours that is touched again and again
                except (OutOfMemoryError, MemoryError):
                    # The touch is tried again, which tells of it again.
                    short_since = time.monotonic() if short_since is None else short_since
                    if time.monotonic() - short_since >= _SHORT_S:
                        self._set(self._before)
                    time.sleep(_AGAIN_S)

        def _is_told(self) -> bool:
            """Take what was told of since the last time, and return whether the signal is among it."""
            try:
                return signal.SIGBUS in self._signals[: os.readv(self._told, (self._signals,))]
            except BlockingIOError:
                return False

"""Outliving what becomes of a touch of a mapped file that somebody cut short, or that the disk does not give.

It is a signal that ends the process (SIGBUS). While maps are touched it ends them instead: Python's own handler only
notes the signal and returns, so that the touch is tried again and again; the thread that is told of it puts memory of
this process's own in the place of the maps that were cut short, and the copies go on to their end, where they fail. Copies have to
leave the interpreter's lock free for it.
"""

import ctypes
import os
import select
import signal
import sys
import time
from typing import Protocol

from worker.core.errors import OutOfMemoryError
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureLock

_SETTLED_S = 0.05
"""So long after other memory is in a map's place, what is told of may still be touches from before."""

_IN_VAIN = 2
"""So often a touch may be told of for which there is no map in whose place memory could be put."""

_TOLD_BYTES = 2**16
"""As many as such a pipe holds: a touch that is tried again and again fills it."""

_AGAIN_S = 0.005
_SHORT_S = 5.0
"""So long is memory waited for to put in a map's place, which for the time being none may be there for."""


class Spoilable(Protocol):
    """A map that other memory can be put in the place of."""

    spoiled: bool
    """Whether that was done."""

    def is_short(self) -> bool:
        """Tell whether bytes that are touched are not in the file any more."""
        ...

    def spoil(self) -> None:
        """Put other memory in its place, at the same addresses. OutOfMemoryError."""
        ...


class Spoil(Protocol):
    """``TouchGuard._spoil``."""

    def __call__(self, *, whole: bool) -> bool:
        """Put other memory in the place of maps; False for none."""
        ...


class TouchGuard:
    """What becomes of that signal in this process. Thread-safe; made once, by the main thread."""

    def __init__(self) -> None:
        self._lock = SureLock()
        # All mutable state: the maps that are touched, once for each user.
        self._used: list[Spoilable] = []
        self._signal = _Signal(self._spoil)

    def begin(self, used: Spoilable) -> None:
        """Note that a map is touched from now on."""
        with self._lock:
            if not self._used:
                self._signal.begin()
            self._used.append(used)

    def end(self, used: Spoilable) -> None:
        """Note that one user does so no more."""
        with self._lock:
            self._used.remove(used)
            if not self._used:
                self._signal.end()

    def guards(self, one: Spoilable) -> bool:
        """Tell whether a map is touched."""
        return one in self._used

    def _spoil(self, *, whole: bool) -> bool:
        """Put other memory in the place of what was cut short, or of anything in use: of a disk that fails, it may be all.

        False if there is none in whose place that was not done. OutOfMemoryError.
        """
        with self._lock:  # maps in use are not closed, and no touch waits for this
            used = [each for each in self._used if not each.spoiled and (whole or each.is_short())]
            for each in used:
                each.spoil()
            return bool(used)


if sys.platform == "win32":

    class _Signal:
        """Nothing: there a file that is mapped can't be cut short."""

        def __init__(self, spoil: Spoil) -> None:
            """Take what other systems need."""

        def begin(self) -> None:
            """Do nothing."""

        def end(self) -> None:
            """Do nothing."""

else:

    class _Signal:
        """What becomes of SIGBUS: ``spoil`` is called, on a thread of its own, between ``begin`` and ``end``."""

        def __init__(self, spoil: Spoil) -> None:
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
            in_vain = 0
            while True:
                try:
                    poll.poll()
                    if not self._is_told():
                        continue
                    # Nothing is short: a touch that fails yet is told of again, however long its disk takes for that.
                    if self._spoil(whole=False) or (in_vain and self._spoil(whole=True)):
                        in_vain = 0
                        time.sleep(_SETTLED_S)
                        self._is_told()
                    elif in_vain < _IN_VAIN:
                        in_vain += 1
                    else:
                        self._set(self._before)  # it is no map of ours that is touched again and again
                    short_since = None
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

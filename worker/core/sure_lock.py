"""Locks that are released whatever happens: leaving the ``with`` block of others may find no memory, and keep them.

The ``__exit__`` of threading's own takes a tuple of its arguments, which has to be made first. Here it is Python's,
which costs: on the way of every request ``acquire``, ``try`` and ``finally: release`` stand in its place. Neither
needs memory, and they cost half of what a ``with`` block of threading's own does; those of ``lock`` a little less yet, for
Python finds methods faster than attributes that can be called.
"""

import _thread
import threading
from types import TracebackType
from typing import Any


class SureLock:
    """As ``threading.Lock``."""

    __slots__ = ("acquire", "lock", "locked", "release")

    def __init__(self) -> None:
        self.lock = lock = threading.Lock()
        self.acquire = lock.acquire
        self.release = lock.release
        self.locked = lock.locked

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class SureRLock(_thread.RLock):  # type: ignore[misc]  # final in its stub alone
    """As ``threading.RLock``."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class SureCondition(threading.Condition):
    """As ``threading.Condition``, over a lock of this module; its own can be taken again by who holds it."""

    _waiters: Any
    _release_save: Any
    _acquire_restore: Any

    def __init__(self, lock: Any = None) -> None:
        super().__init__(SureRLock() if lock is None else lock)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait as ``threading.Condition`` does. MemoryError: nothing is waited for any more, and the lock is held."""
        try:
            waiter = _thread.allocate_lock()
        except RuntimeError as error:
            raise MemoryError from error  # all that it says so of
        acquire, waiters, restore = waiter.acquire, self._waiters, self._acquire_restore
        acquire()
        waiters.append(waiter)
        notified = False
        try:
            state = self._release_save()
            try:
                notified = acquire() if timeout is None else acquire(timeout > 0, max(timeout, 0) or -1)
            finally:
                restore(state)
        finally:
            if not notified and waiter in waiters:
                waiters.remove(waiter)
        return notified

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class SureEvent(threading.Event):
    """As ``threading.Event``, over a condition of this module."""

    def __init__(self) -> None:
        super().__init__()
        self._cond = SureCondition(SureLock())

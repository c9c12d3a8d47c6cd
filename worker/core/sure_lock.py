"""Locks that are released whatever happens: leaving the ``with`` block of others may find no memory, and keep them.

The ``__exit__`` of threading's own takes a tuple of its arguments, which has to be made first.
"""

import _thread
import threading
from types import TracebackType
from typing import Any


class SureLock:
    """As ``threading.Lock``."""

    __slots__ = ("acquire", "locked", "release")

    def __init__(self) -> None:
        lock = threading.Lock()
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

    def __init__(self, lock: Any = None) -> None:
        super().__init__(SureRLock() if lock is None else lock)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

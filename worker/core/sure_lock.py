"""A lock that is released whatever happens: leaving the ``with`` block of another may find no memory, and keep it."""

import threading
from types import TracebackType


class SureLock:
    """As ``threading.Lock``. That one's ``__exit__`` takes a tuple of its arguments, which has to be made."""

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

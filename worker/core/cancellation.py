"""Ending a request early: because the host said so, or because its time is up."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from worker.core.errors import CancelledError, DeadlineExceededError
from worker.core.sure_lock import SureEvent, SureLock

_LOCK = SureLock()
"""Guards what is rarely touched of all tokens: a token of its own lock would cost more than a short request."""


class CancelToken:
    """One request's right to go on. Work calls ``check`` between steps that it can roll back."""

    __slots__ = ("_callbacks", "_cancelled", "_event", "_now_ns", "deadline_ns")

    def __init__(self, now_ns: Callable[[], int], deadline_ns: int | None = None) -> None:
        self.deadline_ns = deadline_ns
        self._now_ns = now_ns
        self._cancelled = False
        self._event: SureEvent | None = None
        """Made by the first who waits."""
        self._callbacks: list[Callable[[], None]] | None = None

    def check(self) -> None:
        """Raise CancelledError or DeadlineExceededError where the work has to stop."""
        if self._cancelled:
            message = "cancelled before it was done; everything is as it was"
            raise CancelledError(message)
        if self.deadline_ns is not None and self._now_ns() >= self.deadline_ns:
            message = "the deadline passed before it was done; everything is as it was"
            raise DeadlineExceededError(message)

    def cancel(self) -> None:
        """Ask the work to stop. Idempotent."""
        with _LOCK:
            self._cancelled = True
            callbacks, self._callbacks = self._callbacks, None
            if self._event is not None:
                self._event.set()
        for callback in callbacks or ():
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call this when cancelled, at once if that has happened."""
        with _LOCK:
            if not self._cancelled:
                self._callbacks = [*(self._callbacks or ()), callback]
                return
        callback()

    @contextmanager
    def telling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call this when cancelled, as long as the block runs."""
        self.on_cancel(callback)
        try:
            yield
        finally:
            with _LOCK, suppress(ValueError):
                if self._callbacks is not None:
                    self._callbacks.remove(callback)

    @property
    def left_ns(self) -> int | None:
        """Nanoseconds until the deadline; None without one."""
        return None if self.deadline_ns is None else max(0, self.deadline_ns - self._now_ns())

    def wait(self, seconds: float | None) -> None:
        """Wait until cancelled, until the deadline, or for ``seconds``."""
        if self.deadline_ns is not None:
            left = max(0.0, (self.deadline_ns - self._now_ns()) / 1e9)
            seconds = left if seconds is None else min(left, seconds)
        with _LOCK:
            if self._cancelled:
                return
            event = self._event = self._event or SureEvent()
        event.wait(None if seconds is None else min(seconds, threading.TIMEOUT_MAX))


CHECK_SECONDS = 0.05
"""Whoever waits for something else checks this often whether its own request was cancelled or its time is up."""


def wait_for_change(changed: threading.Condition, token: CancelToken) -> None:
    """Wait for a notification, or a moment. Raises what the token raises; whoever calls holds the condition."""
    token.check()
    changed.wait(CHECK_SECONDS)
    token.check()

"""Ending a request early: because the host said so, or because its time is up."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from worker.core.errors import CancelledError, DeadlineExceededError


class CancelToken:
    """One request's right to go on. Work calls ``check`` between steps that it can roll back."""

    def __init__(self, now_ns: Callable[[], int], deadline_ns: int | None = None) -> None:
        self.deadline_ns = deadline_ns
        self._now_ns = now_ns
        self._cancelled = threading.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise CancelledError or DeadlineExceededError where the work has to stop."""
        if self._cancelled.is_set():
            message = "cancelled before it was done; everything is as it was"
            raise CancelledError(message)
        if self.deadline_ns is not None and self._now_ns() >= self.deadline_ns:
            message = "the deadline passed before it was done; everything is as it was"
            raise DeadlineExceededError(message)

    def cancel(self) -> None:
        """Ask the work to stop. Idempotent."""
        with self._lock:
            callbacks, self._callbacks = self._callbacks, []
            self._cancelled.set()
        for callback in callbacks:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call this when cancelled, at once if that has happened."""
        with self._lock:
            if not self._cancelled.is_set():
                self._callbacks.append(callback)
                return
        callback()

    @contextmanager
    def telling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call this when cancelled, as long as the block runs."""
        self.on_cancel(callback)
        try:
            yield
        finally:
            with self._lock, suppress(ValueError):
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
        self._cancelled.wait(None if seconds is None else min(seconds, threading.TIMEOUT_MAX))


CHECK_SECONDS = 0.05
"""Whoever waits for something else checks this often whether its own request was cancelled or its time is up."""


def wait_for_change(changed: threading.Condition, token: CancelToken) -> None:
    """Wait for a notification, or a moment. Raises what the token raises; whoever calls holds the condition."""
    token.check()
    changed.wait(CHECK_SECONDS)
    token.check()

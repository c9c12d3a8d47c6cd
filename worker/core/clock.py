"""Time, and waiting for it: the system's, or a fixed one that only moves when something waits."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from worker.core.cancellation import CancelToken
from worker.core.sure_lock import SureLock

NS_PER_MS = 1_000_000
NS_PER_US = 1_000
NS_PER_S = 1_000_000_000


class Clock(Protocol):
    """Where the worker's times come from."""

    def now_ns(self) -> int:
        """Return a monotonic time in nanoseconds."""
        ...

    def utc(self) -> datetime:
        """Return the time of day."""
        ...

    def wait(self, seconds: float | None, token: CancelToken) -> None:
        """Let time pass; None waits until the token ends it. Raises what the token raises."""
        ...


class SystemClock:
    """The machine's clock."""

    now_ns = staticmethod(time.monotonic_ns)

    def utc(self) -> datetime:
        """Return the time of day."""
        return datetime.now(UTC)

    def wait(self, seconds: float | None, token: CancelToken) -> None:
        """Sleep, or until the token ends it."""
        token.wait(seconds)
        token.check()


class FixedClock:
    """A clock that stands at the epoch: it moves by what is waited for, and nothing takes time."""

    def __init__(self) -> None:
        self.parked = 0
        """Threads that wait without end, until cancelled."""
        self._now_ns = 0
        self._when_parked: tuple[Callable[[], None], ...] = ()
        self._lock = SureLock()

    def when_parked(self, call: Callable[[], None]) -> None:
        """Call this whenever a thread begins or ends to wait without end."""
        self._when_parked = (*self._when_parked, call)

    def now_ns(self) -> int:
        """Return the nanoseconds that were waited for so far."""
        return self._now_ns

    def utc(self) -> datetime:
        """Return the epoch plus what was waited for."""
        return datetime.fromtimestamp(self._now_ns / NS_PER_S, UTC)

    def wait(self, seconds: float | None, token: CancelToken) -> None:
        """Move the clock at once, or park until the token ends it."""
        if seconds is not None:
            self._advance(self._now_ns + round(seconds * NS_PER_S))
        elif token.deadline_ns is not None:
            self._advance(token.deadline_ns)
        else:
            # Whoever cancels takes the thread off the parked ones, before the thread itself can run:
            # so that between the two the worker does not seem idle.
            self._count(1)
            token.on_cancel(lambda: self._count(-1))
            token.wait(None)
        token.check()

    def _advance(self, to_ns: int) -> None:
        with self._lock:
            self._now_ns = max(self._now_ns, to_ns)

    def _count(self, change: int) -> None:
        with self._lock:
            self.parked += change
        for call in self._when_parked:
            call()

"""A clock that tests hand to .NET: it stands until it is moved, or runs and shows another date."""

from functools import cache
from typing import Any


def standing() -> Any:
    """Return a clock that stands at the epoch: ``move(TimeSpan)`` moves date, timestamps and timers."""
    return _made(stands=True)


def dated() -> Any:
    """Return a clock that runs like any other but whose date is ``hours`` off."""
    return _made(stands=False)


def _made(*, stands: bool) -> Any:
    import System

    clock = _kind()()  # what Python derives of a .NET type is made without arguments
    clock.stands, clock.hours, clock.moved, clock.waiting = stands, 0, System.TimeSpan.Zero, []
    return clock


@cache
def _kind() -> Any:
    import System
    from System.Threading import Timeout

    class Clock(System.TimeProvider):
        __namespace__ = "Tests.Clocks"

        def GetUtcNow(self) -> Any:
            if self.stands:
                return System.DateTimeOffset.UnixEpoch.Add(self.moved)
            return System.DateTimeOffset.UtcNow.AddHours(self.hours)

        def GetTimestamp(self) -> int:
            if not self.stands:
                return int(System.Diagnostics.Stopwatch.GetTimestamp())
            return int(self.moved.TotalSeconds * System.Diagnostics.Stopwatch.Frequency)

        def CreateTimer(self, callback: Any, state: Any, due: Any, period: Any) -> Any:
            if not self.stands:
                return System.TimeProvider.System.CreateTimer(callback, state, due, period)
            if due != Timeout.InfiniteTimeSpan:
                self.waiting.append((self.moved + due, callback, state))
            # Its own time never comes: it goes off where the clock is moved.
            return System.TimeProvider.System.CreateTimer(
                callback, state, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan
            )

        def move(self, time: Any) -> None:
            """Let time pass, and what waits until then go on."""
            self.moved += time
            due, self.waiting = (
                [one for one in self.waiting if one[0] <= self.moved],
                [one for one in self.waiting if one[0] > self.moved],
            )
            for _, callback, state in due:
                callback.Invoke(state)

    return Clock

"""A clock that tests hand to .NET: it stands until it is moved, or runs and shows another date."""

import threading
from functools import cache
from typing import Any


def standing() -> Any:
    """Return a clock that stands at the epoch: ``move(TimeSpan)`` moves date, timestamps and timers.

    ``waiting`` has the timers that are still to come: one that is stopped or disposed of is none of them.
    """
    return _made(stands=True)


def dated() -> Any:
    """Return a clock that runs like any other but whose date is ``hours`` off."""
    return _made(stands=False)


def _made(*, stands: bool) -> Any:
    import System

    clock = _kind()()  # what Python derives of a .NET type is made without arguments
    clock.stands, clock.hours, clock.moved, clock.waiting = stands, 0, System.TimeSpan.Zero, {}
    clock.lock = threading.RLock()  # of moved and waiting: timers are made and stopped on .NET's threads
    return clock


@cache
def _kind() -> Any:
    import System
    from System.Threading import ITimer, Timeout
    from System.Threading.Tasks import ValueTask

    class Timer(ITimer, System.IDisposable, System.IAsyncDisposable):  # type: ignore[misc]  # on purpose, for the test
        __namespace__ = "Tests.Clocks"

        def Change(self, due: Any, _period: Any) -> bool:
            with self.clock.lock:
                self.clock.waiting.pop(self, None)
                if due != Timeout.InfiniteTimeSpan:
                    self.clock.waiting[self] = self.clock.moved + due
            return True

        def Dispose(self) -> None:
            with self.clock.lock:
                self.clock.waiting.pop(self, None)

        def DisposeAsync(self) -> Any:
            self.Dispose()
            return ValueTask.CompletedTask

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
            timer = Timer()
            timer.clock, timer.callback, timer.state = self, callback, state
            timer.Change(due, period)
            return timer

        def move(self, time: Any) -> None:
            """Let time pass, and what waits until then go on."""
            with self.lock:
                self.moved += time
                due = [timer for timer, at in self.waiting.items() if at <= self.moved]
                for timer in due:
                    del self.waiting[timer]
            for timer in due:
                timer.callback.Invoke(timer.state)

    return Clock

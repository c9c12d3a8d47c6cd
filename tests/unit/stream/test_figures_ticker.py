"""Figures at a steady pace: at once, then every so often, for as long as there is a subscriber."""

import pytest

from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_S, FixedClock
from worker.stream.alarm import Alarm
from worker.stream.figures_ticker import FiguresTicker


class Told:
    """A subscriber, and when it was told."""

    def __init__(self) -> None:
        self.clock = FixedClock()
        self.alarm = Alarm(self.clock)
        self.at_s: list[int] = []
        self.there = True
        self.fails = False
        self.ticker = FiguresTicker(self.clock.now_ns, self.alarm.at, self.tell)

    def tell(self) -> bool:
        """Be told."""
        if self.fails:
            raise RuntimeError("a bug")
        self.at_s.append(self.clock.now_ns() // NS_PER_S)
        return self.there

    def pass_s(self, *seconds: int) -> list[int]:
        """Let time pass, in these steps. Returns when it was told since."""
        self.at_s.clear()
        for step in seconds:
            self.clock.wait(step, CancelToken(self.clock.now_ns))
            self.alarm.run_due()
        return list(self.at_s)


def every(seconds: int) -> int:
    """Return seconds in nanoseconds."""
    return seconds * NS_PER_S


def test_at_once_and_then_every_so_often() -> None:
    """Nothing drifts, and the same wish again changes nothing."""
    told = Told()
    told.ticker.set(every(30))
    start = told.clock.now_ns() // NS_PER_S
    assert told.pass_s(0) == [start]
    assert told.pass_s(*[1] * 29) == []
    told.ticker.set(every(30))
    assert told.pass_s(*[1] * 91) == [start + 30, start + 60, start + 90, start + 120]


def test_what_was_missed_is_left_out_and_the_pace_kept() -> None:
    """A machine that slept is not told of each time that it missed."""
    told = Told()
    told.ticker.set(every(10))
    start = told.clock.now_ns() // NS_PER_S
    assert told.pass_s(0, 37, 1, 1, 1, 1) == [start, start + 37, start + 40]


@pytest.mark.parametrize("end", ["no longer wanted", "gone"])
def test_it_ends_with_its_subscriber(end: str) -> None:
    """Nothing is left that would be called."""
    told = Told()
    told.ticker.set(every(1))
    told.pass_s(0)
    if end == "gone":
        told.there = False
        told.pass_s(1)
    else:
        told.ticker.set(None)
    assert told.pass_s(1, 1, 1) == []
    told.there = True
    told.ticker.set(every(2))
    assert len(told.pass_s(0, 1, 1)) == 2


def test_another_pace_takes_its_place() -> None:
    """The earlier one's timer is cancelled: nobody is told twice."""
    told = Told()
    for seconds in range(1, 200):
        told.ticker.set(every(seconds))
    told.ticker.set(every(5))
    start = told.clock.now_ns() // NS_PER_S
    assert told.pass_s(0, 1, 1, 1, 1, 1) == [start, start + 5]


def test_a_bug_ends_no_subscription() -> None:
    """It is tried again the next time."""
    told = Told()
    told.fails = True
    told.ticker.set(every(1))
    told.pass_s(0)
    told.fails = False
    assert len(told.pass_s(1)) == 1

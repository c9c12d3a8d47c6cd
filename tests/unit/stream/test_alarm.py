"""What is due later: in its order, by the clock."""

import threading

import pytest

from worker.core.cancellation import CancelToken
from worker.core.clock import FixedClock, SystemClock
from worker.stream.alarm import Alarm

PATIENCE_SECONDS = 5.0


def test_alarm_is_in_due_order() -> None:
    """What is due is called in order of its time, then of its setting; the rest waits."""
    clock = FixedClock()
    alarm, called = Alarm(clock), list[str]()
    for due, name in ((30, "c"), (10, "a"), (10, "b"), (50, "d")):
        alarm.at(due, lambda name=name: called.append(name))
    clock.wait(30 / 1e9, CancelToken(clock.now_ns))
    alarm.run_due()
    assert called == ["a", "b", "c"]
    alarm.run_due()
    assert called == ["a", "b", "c"]


def test_alarm_by_the_clock() -> None:
    """The alarm's thread calls back at the time, also what was set while it waited for something later."""
    clock = SystemClock()
    alarm, first, second = Alarm(clock), threading.Event(), threading.Event()
    alarm.start()
    alarm.at(clock.now_ns() + 60 * 10**9, lambda: None)
    due = clock.now_ns() + 50 * 10**6
    alarm.at(due, first.set)
    assert first.wait(PATIENCE_SECONDS)
    assert clock.now_ns() >= due
    alarm.at(clock.now_ns(), second.set)
    assert second.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize("due_ns", [2**63, 2**73])
def test_alarm_that_is_never_due(due_ns: int) -> None:
    """A time further off than the system can wait for does not end the alarm's thread."""
    clock = SystemClock()
    alarm, called = Alarm(clock), threading.Event()
    alarm.at(due_ns, lambda: None)
    alarm.start()
    alarm.at(clock.now_ns() + 10**7, called.set)
    assert called.wait(PATIENCE_SECONDS)

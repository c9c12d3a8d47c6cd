"""Tokens and clocks: waiting ends with a cancelling or a deadline."""

import threading
import time

import pytest

from worker.core.cancellation import CancelToken
from worker.core.clock import FixedClock, SystemClock
from worker.core.errors import CancelledError, DeadlineExceededError

PATIENCE_SECONDS = 5.0


def test_token() -> None:
    """A token lets work go on until it is cancelled; callbacks come once, late ones at once."""
    token, called = CancelToken(FixedClock().now_ns), list[str]()
    token.check()
    token.on_cancel(lambda: called.append("early"))
    token.cancel()
    token.cancel()
    token.on_cancel(lambda: called.append("late"))
    assert called == ["early", "late"]
    with pytest.raises(CancelledError):
        token.check()


def test_deadline() -> None:
    """A deadline holds from its very nanosecond on."""
    clock = FixedClock()
    token = CancelToken(clock.now_ns, 10)
    clock.wait(9e-9, CancelToken(clock.now_ns))
    token.check()
    with pytest.raises(DeadlineExceededError):
        clock.wait(1e-9, token)


@pytest.mark.parametrize("deadline_ms", [None, 10**6, 2**53])
def test_waiting_ends_with_the_cancelling(deadline_ms: int | None) -> None:
    """Whoever waits without end is woken by the one who cancels, however far off the deadline is."""
    clock = SystemClock()
    deadline = None if deadline_ms is None else clock.now_ns() + deadline_ms * 10**6
    token = CancelToken(clock.now_ns, deadline)
    threading.Timer(0.05, token.cancel).start()
    with pytest.raises(CancelledError):
        clock.wait(None, token)


def test_waiting_ends_with_the_deadline() -> None:
    """A wait that is longer than its deadline ends with it."""
    clock = SystemClock()
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        clock.wait(1000, CancelToken(clock.now_ns, clock.now_ns() + 10**7))
    assert time.monotonic() - started < PATIENCE_SECONDS


def test_fixed_clock_moves_by_waiting() -> None:
    """The fixed clock stands at the epoch and moves by what is waited for, never back."""
    clock = FixedClock()
    token = CancelToken(clock.now_ns)
    assert clock.now_ns() == 0
    assert clock.utc().isoformat() == "1970-01-01T00:00:00+00:00"
    clock.wait(90.5, token)
    assert clock.now_ns() == 90_500_000_000
    with pytest.raises(DeadlineExceededError):
        clock.wait(None, CancelToken(clock.now_ns, 1))
    assert clock.now_ns() == 90_500_000_000

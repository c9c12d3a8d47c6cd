"""Threads of a device's process: as many as there are calls at once, and no more than there may be."""

from threading import Barrier, Event, get_ident

import pytest

from worker.backends import call_threads
from worker.backends.call_threads import CallThreads
from worker.core.errors import OutOfMemoryError


def test_calls_at_once_have_threads_of_their_own_up_to_the_most():
    """The next waits for one that is free; all are run."""
    threads, go, begun, done = (
        CallThreads(2),
        Event(),
        [Event() for _ in range(3)],
        [Event() for _ in range(3)],
    )

    def call(number: int) -> None:
        begun[number].set()
        go.wait(60)
        done[number].set()

    for number in range(3):
        threads.submit(call, number)
    assert begun[0].wait(60)
    assert begun[1].wait(60)
    assert not begun[2].is_set()
    go.set()
    assert all(each.wait(60) for each in done)


def test_a_thread_that_is_free_is_used_again():
    """One call after the other takes one thread, or the next of two where the first is not back yet."""
    threads, by = CallThreads(2), set[int]()
    for _ in range(50):
        over = Event()
        threads.submit(lambda over=over: (by.add(get_ident()), over.set()))
        assert over.wait(60)
    assert len(by) <= 2


def test_no_call_waits_while_there_may_be_another_thread():
    """However threads come free: of calls that wait for each other all are run at once, each time one more."""
    most = 16
    threads = CallThreads(most)
    for count in range(1, most):
        together, over = Barrier(count + 1, timeout=60), Event()
        threads.submit(over.set)
        for _ in range(count):
            threads.submit(together.wait)
        together.wait()
        assert over.wait(60)


def test_where_no_thread_starts_a_call_is_refused_or_waits_for_one_there_is(monkeypatch: pytest.MonkeyPatch):
    """The first is refused, and never runs; with a thread at work the next waits for that; later ones have threads again."""
    threads, start = CallThreads(2), call_threads.start_thread
    go, begun, done, refused = Event(), Event(), Event(), Event()

    def refuse(*_: object) -> Event:
        raise OutOfMemoryError("the system starts no more threads just now; try again")

    def call() -> None:
        begun.set()
        go.wait(60)

    monkeypatch.setattr(call_threads, "start_thread", refuse)
    with pytest.raises(OutOfMemoryError):
        threads.submit(refused.set)
    monkeypatch.setattr(call_threads, "start_thread", start)
    threads.submit(call)
    assert begun.wait(60)
    monkeypatch.setattr(call_threads, "start_thread", refuse)
    threads.submit(done.set)
    assert not done.is_set()
    go.set()
    assert done.wait(60)
    assert not refused.is_set()

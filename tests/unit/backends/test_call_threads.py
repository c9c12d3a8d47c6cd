"""Threads of a device's process: as many as there are calls at once, and no more than there may be."""

from threading import Event, get_ident

from worker.backends.call_threads import CallThreads


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

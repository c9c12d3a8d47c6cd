"""Work in pieces: by as many threads as there are processors for, each piece once, and none left running."""

import errno
import os
import sys
import threading
from collections.abc import Callable

import pytest

from worker.backends import pieces
from worker.backends.pieces import PARALLEL_FROM_BYTES, take_turns, threads_for
from worker.core.cancellation import CancelToken
from worker.core.errors import OutOfMemoryError
from worker.core.sure_lock import SureEvent

TOKEN = CancelToken(lambda: 0)


@pytest.mark.parametrize(("cpus", "threads"), [(1, 2), (2, 2), (8, 2), (12, 3), (16, 4), (64, 4)])
def test_threads(monkeypatch: pytest.MonkeyPatch, cpus: int, threads: int) -> None:
    """Two, and four at most where most of the processors are left to others; small work is one's."""
    monkeypatch.setattr(pieces, "_cpus", lambda: cpus)
    assert threads_for(PARALLEL_FROM_BYTES) == threads
    assert threads_for(PARALLEL_FROM_BYTES - 1) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is asked which processors may be used")
def test_processors_that_may_not_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a container's filter refuses the question all count."""

    def refused(_pid: int) -> set[int]:
        raise PermissionError(errno.EPERM, "refused")

    monkeypatch.setattr(os, "sched_getaffinity", refused)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert threads_for(PARALLEL_FROM_BYTES) == 4


def test_each_piece_once() -> None:
    """All four threads have a piece at once, and progress rises to the end."""
    all_four = threading.Barrier(4, timeout=30)
    taken: list[int] = []
    told: list[int] = []

    def work(piece: int) -> int:
        if piece < all_four.parties:
            all_four.wait()
        taken.append(piece)
        return 10

    take_turns(range(40), work, TOKEN, told.append, threads=4)
    assert sorted(taken) == list(range(40))
    assert told == list(range(10, 410, 10))


@pytest.mark.parametrize("started", [0, 1])
def test_threads_that_are_not_to_be_had(monkeypatch: pytest.MonkeyPatch, started: int) -> None:
    """The work is done by those there are."""
    start, left = pieces.start_thread, [None] * started

    def short(run: object, name: str) -> object:
        if not left:
            raise OutOfMemoryError("the system starts no more threads", resource="threads")
        left.pop()
        return start(run, name)

    monkeypatch.setattr(pieces, "start_thread", short)
    taken: list[int] = []
    take_turns(range(9), lambda piece: taken.append(piece) or 1, TOKEN, threads=4)
    assert sorted(taken) == list(range(9))


def test_a_piece_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is raised once all threads have ended; no piece is begun after it."""
    start, helpers = pieces.start_thread, list[SureEvent]()

    def started(run: Callable[[], object], name: str) -> SureEvent:
        helpers.append(start(run, name))
        return helpers[-1]

    monkeypatch.setattr(pieces, "start_thread", started)
    all_four = threading.Barrier(4, timeout=30)
    taken: list[int] = []

    def work(piece: int) -> int:
        all_four.wait()  # a second piece of anybody's would wait for ever
        taken.append(piece)
        if piece == 1:
            raise ValueError(piece)
        while 1 not in taken:
            pass
        return 1

    with pytest.raises(ValueError, match="1"):
        take_turns(range(4), work, TOKEN, threads=4)
    assert sorted(taken) == [0, 1, 2, 3]
    assert [each.is_set() for each in helpers] == [True] * 3

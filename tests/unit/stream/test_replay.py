"""Answers that are kept for a request that comes again."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.vocabulary import REPLAY_CAPACITY
from worker.core.errors import DuplicateRequestIdError
from worker.stream.frames import success_frame
from worker.stream.replay import Replay, body_of

PATIENCE_SECONDS = 5.0


def test_replay_is_bounded() -> None:
    """The last 1,024 answers are kept, and less where they are large."""
    replay = Replay()
    for number in range(REPLAY_CAPACITY + 10):
        replay.keep(str(number), b"body", b"frame")
    assert replay.find("9", b"body") is None
    assert replay.find("10", b"body") == b"frame"
    big = b"x" * 2**24
    for number in range(8):
        replay.keep(f"big{number}", b"body", big)
    kept = [number for number in range(8) if replay.find(f"big{number}", b"body")]
    assert 1 <= len(kept) <= 4
    assert kept[-1] == 7
    assert replay.find("1033", b"body") is None


def test_replay_of_other_work() -> None:
    """The same id for other work is refused."""
    replay = Replay()
    replay.keep("1", b"body", b"frame")
    with pytest.raises(DuplicateRequestIdError):
        replay.find("1", b"other")


@given(st.dictionaries(st.text(max_size=5), st.integers(-(2**53), 2**53) | st.text(max_size=300), max_size=4))
def test_bodies_are_the_same_exactly_for_the_same_work(data: dict[str, int | str]) -> None:
    """The order of keys does not matter; everything else does."""
    body = body_of("a", data)
    assert body_of("a", dict(reversed(data.items()))) == body
    assert body_of("b", data) != body
    assert body_of("a", {**data, "another": 1}) != body
    assert len(body) <= 512


def test_answers_that_are_kept_take_no_more_than_they_need() -> None:
    """A reply is remembered in its own bytes, not in the buffer that it was written into."""
    replay, tracemalloc_was_on = Replay(), tracemalloc.is_tracing()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(500):
        replay.keep(f"r{number}", b"x" * 32, success_frame(f"r{number}", {"size_bytes": number}))
    kept = tracemalloc.get_traced_memory()[0] - before
    if not tracemalloc_was_on:
        tracemalloc.stop()
    assert kept < 500 * 1024

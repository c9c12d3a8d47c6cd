"""What an engine asks while it works: whatever becomes of the call, the memory that an answer lies in is taken back."""

from typing import Any

from worker.backends.engines.arrays import Segments
from worker.backends.engines.asking import Questions
from worker.core.errors import OutOfMemoryError

ASKED = {"question": {"do": "longest", "tokens": [1]}, "arrays": None}
FOUND = {"blocks": [b"x" * 100_000]}


class Replies:
    """As a process's answers."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def reply(self, _call: object, value: Any) -> None:
        self.all.append(value)


def test_an_answer_is_there_until_it_was_looked_at() -> None:
    """The engine says when; or its call ends."""
    replies, segments = Replies(), Segments()
    questions = Questions(replies, segments, lambda _: FOUND)  # type: ignore[arg-type]  # as much of them as is used
    for end in (lambda: questions._serve(None, None), questions.over):  # type: ignore[arg-type]
        questions._serve(None, ASKED)  # type: ignore[arg-type]
        assert replies.all[-1]["arrays"]["place"]["name"] in segments._under_way
        end()
        assert segments._under_way == {}
    segments.clear()


def test_a_call_that_ends_as_it_is_answered_leaves_nothing() -> None:
    """A process that was killed meanwhile looks at no answer."""
    replies, segments = Replies(), Segments()

    def answer(_: Any) -> Any:
        questions.over()
        return FOUND

    questions = Questions(replies, segments, answer)  # type: ignore[arg-type]
    questions._serve(None, ASKED)  # type: ignore[arg-type]
    assert segments._under_way == {}
    segments.clear()


def test_what_a_process_ended_with_is_forgotten_whatever_that_raises() -> None:
    """How the process ended is what its caller is told."""
    done = []

    def answer(asked: Any) -> Any:
        done.append(asked["do"])
        if asked["do"] == "forget":
            raise OutOfMemoryError("the disk is full")
        return FOUND

    segments = Segments()
    questions = Questions(Replies(), segments, answer)  # type: ignore[arg-type]
    questions._serve(None, ASKED)  # type: ignore[arg-type]
    questions.lost()
    questions.over()
    assert done == ["longest", "forget"]
    segments.clear()

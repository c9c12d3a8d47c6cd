"""Asking owners outside this process for something, by events, and waiting for their word: all at once, within a time."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_MS, NS_PER_S, Clock
from worker.core.errors import CancelledError, DeadlineExceededError
from worker.core.sure_lock import SureLock

ANSWER_WITHIN_NS = 5 * NS_PER_S
"""How long an owner may take, unless the request has less time."""

ELSEWHERE: Final = object()
"""The answer for all but the first who waited for the same bytes: something came, and counts for another request."""

Answers = dict[str, Any]
"""What was said about each thing that was asked for; what nobody answered for is not in it."""


class _Question:
    """Things that are waited for."""

    def __init__(self, about: Iterable[str]) -> None:
        # All mutable state: what is not answered for yet, what else was said, and what of that is new.
        self.open = set(about)
        self.answers: Answers = {}
        self.new: Answers = {}
        self.waiting: CancelToken | None = None

    def answer(self, about: str, said: Any) -> bool:
        """Take an answer; the first one counts. Returns whether it does."""
        if waited := about in self.open:
            self.open.remove(about)
            self.answers[about] = self.new[about] = said
            if self.waiting is not None:
                self.waiting.cancel()
        return waited


class Questions:
    """All that is asked now. Answers come from any thread, and wait for nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = SureLock()
        # All mutable state.
        self._open: list[_Question] = []

    def answer(self, about: str, said: Any) -> bool:
        """Take an owner's word about something, whoever asked for it. Returns whether anyone waited for it.

        Bytes that were given back count once: who asked first hears how many, all others ``ELSEWHERE``.
        """
        waited = False
        with self._lock:
            for question in self._open:
                if question.answer(about, said):
                    waited, said = True, ELSEWHERE if isinstance(said, int) and said > 0 else said
        return waited

    def wait_ns(self, token: CancelToken, within_ns: int | None = None) -> int:
        """Return how long a question waits: at most half of what is left of a deadline, so that there is time to act."""
        limit = ANSWER_WITHIN_NS if within_ns is None else min(within_ns, ANSWER_WITHIN_NS)
        left = token.left_ns
        return limit if left is None else min(limit, left // 2)

    def ask(
        self, about: Iterable[str], send: Callable[[], None], token: CancelToken, wait_ns: int,
        answered: Callable[[Answers], None] | None = None,
    ) -> Answers:  # fmt: skip
        """Ask, by ``send``, and wait until all is answered for or the time is over. Raises what the token raises.

        ``answered`` is called by the waiting thread with the answers that came since it was last called, without those
        that count for another request: once when ``send`` has returned, whatever came meanwhile, and after each wait.
        """
        question = _Question(about)
        until_ns = self._clock.now_ns() + wait_ns
        with self._lock:
            self._open.append(question)
        try:
            send()
            if answered is not None:
                self._tell(question, answered)
            while question.open and self._clock.now_ns() < until_ns:
                self._wait(question, until_ns, token)
                if answered is not None:
                    self._tell(question, answered)
                token.check()
        finally:
            with self._lock:
                self._open.remove(question)
        if answered is not None:
            self._tell(question, answered)
        token.check()
        return question.answers

    def _wait(self, question: _Question, until_ns: int, token: CancelToken) -> None:
        """Wait for the next answer."""
        waiting = CancelToken(self._clock.now_ns, until_ns)
        with self._lock:
            if question.new or not question.open:
                return
            question.waiting = waiting
        with token.telling(waiting.cancel), suppress(CancelledError, DeadlineExceededError):
            self._clock.wait((until_ns - self._clock.now_ns()) / NS_PER_S, waiting)

    def _tell(self, question: _Question, answered: Callable[[Answers], None]) -> None:
        with self._lock:
            new, question.new = question.new, {}
        answered({about: said for about, said in new.items() if said is not ELSEWHERE})


def silence(wait_ns: int, what: str) -> str:
    """Return the words for an owner that did not answer."""
    return f"its owner was asked and has not {what} within {wait_ns // NS_PER_MS} ms"

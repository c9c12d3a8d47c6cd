"""What an engine asks of the worker while it works: the store of its prompts' beginnings lies there."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from worker.backends.engines.arrays import Segments
from worker.backends.isolation.answers import Answers
from worker.backends.isolation.call import Call
from worker.backends.isolation.caller import Caller
from worker.core.errors import OutOfMemoryError, WorkerError
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureLock

_working = threading.local()


class Asker:
    """Asks the worker, in the engine's process; bytes go through shared memory both ways."""

    def __init__(self, caller: Caller, segments: Segments) -> None:
        self._caller = caller
        self._segments = segments

    @contextmanager
    def ask(self, question: dict[str, Any]) -> Iterator[Any]:
        """Ask, and look at the answer until the end of the block. OSError where the worker has none, with its words."""
        rest, arrays = self._segments.send(question)
        try:
            reply = self._caller.ask({"question": rest, "arrays": arrays})
        finally:
            self._segments.done(arrays)
        if reply["error"] is not None:
            raise OSError(reply["error"])
        try:
            yield self._segments.receive(reply["answer"], reply["arrays"], copied=False)
        finally:
            if reply["arrays"] is not None:
                self._caller.ask(None)  # it was looked at


@contextmanager
def asking(caller: Any, segments: Segments) -> Iterator[None]:
    """Have this thread's work ask this caller until the end of the block."""
    _working.asker = Asker(caller, segments) if isinstance(caller, Caller) else None
    try:
        yield
    finally:
        _working.asker = None


def asker() -> Asker | None:
    """Return whom this thread's work may ask; None in a thread of its own, and outside of calls."""
    found: Asker | None = getattr(_working, "asker", None)
    return found


class Questions:
    """Answers what one call asks, in the worker: on a thread of its own, since who reads answers must not wait."""

    def __init__(self, answers: Answers, segments: Segments, answer: Callable[[Any], Any]) -> None:
        self._answers = answers
        self._segments = segments
        self._answer = answer
        self._lock = SureLock()
        # All mutable state: where the last answer lies until it was looked at, and what was asked; whether the call ended.
        self._sent: dict[str, Any] | None = None
        self._asked: dict[str, Any] | None = None
        self._over = False

    def __call__(self, call: Call, question: Any) -> None:
        """Have a question answered."""
        try:
            start_thread(partial(self._serve, call, question), "engine-question")
        except OutOfMemoryError:
            self._answers.reply(call, {"error": "the worker has no thread for it now"})

    def lost(self) -> None:
        """Note that the process has ended: what it was about to use may have been the cause, and is not given again."""
        asked, self._asked = self._asked, None
        if asked is not None:
            with suppress(WorkerError):  # how the process ended is what its caller is told
                self._answer(asked | {"do": "forget"})

    def over(self) -> None:
        """Take back what was not looked at, or is being made still: the call has ended."""
        with self._lock:
            self._over = True
        self._take_back()

    def _take_back(self) -> None:
        with self._lock:
            sent, self._sent, self._asked = self._sent, None, None
        self._segments.done(sent)

    def _serve(self, call: Call, question: Any) -> None:
        self._take_back()
        if question is None:
            self._answers.reply(call, None)
            return
        rest = sent = why = None
        try:
            asked = self._segments.receive(question["question"], question["arrays"], copied=False)
            rest, sent = self._segments.send(self._answer(asked))
        except Exception as error:  # noqa: BLE001 - the engine works on without an answer
            why = str(error) or repr(error)
        if sent is not None:
            with self._lock:
                self._sent, self._asked, over = sent, asked, self._over
            if over:
                self._take_back()
        self._answers.reply(call, {"error": why, "answer": rest, "arrays": sent})

"""Who called into a process, as work there sees it: told how far it is, and asked for what only the worker has."""

from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from worker.backends.isolation.frames import FramePipe


class Caller:
    """The caller of one call: a function of how much is done, and how much there is."""

    def __init__(self, pipe: FramePipe, call: int) -> None:
        self._pipe = pipe
        self._call = call
        self._replies: SimpleQueue[Any] = SimpleQueue()

    def __call__(self, completed: int, total: int) -> None:
        """Tell how far the call is."""
        with suppress(OSError):  # the worker is gone, and the answer will find that out
            self._pipe.send([self._call, None, None, [completed, total]])

    def ask(self, question: Any) -> Any:
        """Ask something, and wait for the reply. One question of a call at a time. OSError where the worker is gone."""
        self._pipe.send([self._call, None, None, None, question])
        return self._replies.get()

    def reply(self, value: Any) -> None:
        """Hand the reply to whoever asked."""
        self._replies.put(value)

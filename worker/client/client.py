"""The client for threads: every action of the contract as a method that waits for its answer."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

from protocol.results import HelloResult
from protocol.vocabulary import FIGURES_EVERY_MS, EventName
from worker.client.actions import Actions
from worker.client.calls import LEFT_OUT, CallOptions, Waiting
from worker.client.events import Events
from worker.client.values import read
from worker.client.workers import Workers

_DEFAULT = CallOptions()

R = TypeVar("R")


class Client(Actions):
    """A worker and everything that can be asked of it. May be used by several threads at once.

    A refusal is the worker's own error class (``worker.errors``); WorkerExitedError where the process ended.
    Interrupting a call (Ctrl-C) cancels it at the worker.
    """

    def __init__(self, workers: Workers, options: CallOptions = _DEFAULT) -> None:
        self._workers = workers
        self._options = options
        self._finalizer = weakref.finalize(self, workers.close)

    @property
    def hello(self) -> HelloResult:
        """What the running worker said of itself: version, actions, limits."""
        return self._workers.connection().hello

    @property
    def is_running(self) -> bool:
        """Whether there is a worker at this moment, so that no call has to start one."""
        return self._workers.running is not None

    def call(self, action: str, data: dict[str, Any], options: CallOptions | None = None) -> dict[str, Any]:
        """Send any action, a plugin's for example. Returns the reply's ``data`` as it came."""
        chosen = self._options if options is None else options
        waiting = Waiting()
        connection, request_id = self._workers.send(action, data, chosen, waiting)
        try:
            return waiting.wait(chosen)
        except (KeyboardInterrupt, SystemExit):
            connection.cancel(request_id)
            raise

    def events(self, *names: EventName | str, figures_every_ms: int = FIGURES_EVERY_MS) -> Events:
        """Subscribe to events; where none is named, to all that tell of what happened. They go on when a worker is replaced.

        ``memory.figures`` has to be named, and comes at once, and then every ``figures_every_ms`` (1,000 to a day); as
        often as the reader that wants it most often, where there are several.
        """
        return self._workers.subscribe(names, figures_every_ms)

    def close(self) -> None:
        """End the worker: it answers what it was asked, frees everything and exits. Idempotent."""
        self._finalizer()

    def _call(self, action: str, kind: type[R], data: dict[str, Any], options: CallOptions | None) -> R:
        sent = {name: value for name, value in data.items() if value is not LEFT_OUT}
        found: R = read(kind, self.call(action, sent, options))
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(
    *options: str, command: Sequence[str] | None = None, call: CallOptions = _DEFAULT, restart: bool = True,
    on_exit: Callable[[str], object] | None = None,
) -> Client:  # fmt: skip
    """Start a worker with these command line options, and return what talks to it: close it, or use ``with``.

    ``command`` replaces ``python -m memory_worker`` of this interpreter; ``call`` is how calls are handled that don't say;
    ``restart``: a worker that dies is replaced at the next call (what was allocated in it is gone);
    ``on_exit`` is told how one died, on a thread of the client's.

    Raises WorkerExitedError, with the process's last words, if it does not start.
    """
    return Client(Workers(options, command, restart=restart, on_exit=on_exit), call)

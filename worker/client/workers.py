"""The worker behind a client: started when it is needed, and again when it died; its events go to all who asked."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from protocol.vocabulary import EventName, Executed
from worker.client.calls import CallOptions, Receiver, WorkerExitedError
from worker.client.connection import Connection
from worker.client.events import Events, event_of, names_of
from worker.client.process import default_command
from worker.core.errors import WorkerError

_QUICK_SECONDS = 1.0
"""A worker that ends so soon after its first answer, however long that took, would do so again."""
_WAIT_SECONDS = (0.0, 0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 30.0)
"""How long no new one is started after as many quick ends in a row."""


class Workers:
    """One worker at a time. ``on_exit`` is called with the reason when one died by itself."""

    def __init__(
        self, options: Sequence[str], command: Sequence[str] | None, *, restart: bool,
        on_exit: Callable[[str], object] | None,
    ) -> None:  # fmt: skip
        self._command = (*(default_command() if command is None else command), *options)
        self._restart = restart
        self._on_exit = on_exit
        self._lock = threading.RLock()
        # All mutable state.
        self._readers: list[Events] = []
        self._current: Connection | None = None
        self._ends = self._quick_ends = 0
        self._not_before = 0.0
        self._closed = False
        self.connection()

    def connection(self) -> Connection:
        """Return the running worker, started anew if the last one died. WorkerExitedError if there is none."""
        with self._lock:
            if self._current is not None:
                if self._current.alive:
                    return self._current
                self._note_end(self._current.lived_seconds)
                self._current = None
            if self._closed or (self._ends and not self._restart):
                message = "the client is closed" if self._closed else "the worker died, and restart=False"
                raise WorkerExitedError(message, Executed.NO)
            left = self._not_before - time.monotonic()
            if left > 0:
                message = (
                    f"the worker died {self._quick_ends} times at its start; tried again in {left:.1f} s"
                )
                raise WorkerExitedError(message, Executed.NO)
            try:
                self._current = Connection(self._command, self._event, self._ended)
            except WorkerExitedError:
                self._note_end(0.0)
                raise
            if self._readers:
                self._ask_for_events(self._current)
            return self._current

    @property
    def running(self) -> Connection | None:
        """The running worker; None while there is none. Starts none, and so never waits."""
        current = self._current
        return current if current is not None and current.alive else None

    def send(
        self, action: str, data: dict[str, Any], options: CallOptions, receiver: Receiver
    ) -> tuple[Connection, str]:
        """Send a request to the worker of this moment. Returns that and the request's id."""
        connection = self.connection()
        return connection, connection.send(action, data, options, receiver)

    def subscribe(self, names: tuple[EventName | str, ...], figures_every_ms: int) -> Events:
        """Return a new reader of events; of this worker and of those that replace it."""
        events = Events(names_of(names), figures_every_ms, self._unsubscribe)
        with self._lock:
            connection = self.connection()
            self._readers.append(events)
            try:
                self._ask_for_events(connection)
            except WorkerError:
                self._readers.remove(events)
                raise
        return events

    def close(self) -> None:
        """End the worker, and every reader of events."""
        with self._lock:
            self._closed = True
            current, readers, self._readers = self._current, self._readers, []
        if current is not None:
            current.close()
        for events in readers:
            events.put(None)

    # ---- inside ----

    def _unsubscribe(self, events: Events) -> None:
        with self._lock:
            if events in self._readers:
                self._readers.remove(events)
                if self._current is not None and self._current.alive:
                    self._ask_for_events(self._current)

    def _ask_for_events(self, connection: Connection) -> None:
        names = sorted(frozenset[str]().union(*(each.names for each in self._readers)) - {"progress"})
        every_ms = [each.figures_every_ms for each in self._readers if EventName.FIGURES in each.names]
        connection.subscribe(tuple(names), min(every_ms, default=None))

    def _event(self, message: dict[str, Any]) -> None:
        event = event_of(message)
        for each in tuple(self._readers):
            if event.name in each.names:
                each.put(event)

    def _ended(self, how: str) -> None:
        if self._on_exit is not None:
            self._on_exit(how)

    def _note_end(self, lived_seconds: float) -> None:
        self._ends += 1
        self._quick_ends = self._quick_ends + 1 if lived_seconds < _QUICK_SECONDS else 0
        self._not_before = time.monotonic() + _WAIT_SECONDS[min(self._quick_ends, len(_WAIT_SECONDS) - 1)]

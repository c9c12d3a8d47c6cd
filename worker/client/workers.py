"""The worker behind a client: started when it is needed, and again when it died; its events go to all who asked."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any

from protocol.vocabulary import EventName, Executed
from worker.client.calls import CallOptions, Receiver, WorkerExitedError, within
from worker.client.connection import Connection
from worker.client.events import Events, event_of, names_of
from worker.client.process import default_command
from worker.core.errors import DeadlineExceededError, WorkerError

_QUICK_SECONDS = 1.0
"""A worker that ends so soon after its first answer, however long that took, would do so again."""
_WAIT_SECONDS = (0.0, 0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 30.0)
"""How long no new one is started after as many quick ends in a row."""

_PATIENT = CallOptions()


class Workers:
    """One worker at a time. ``on_exit`` is called with the reason when one died by itself."""

    def __init__(
        self, options: Sequence[str], command: Sequence[str] | None, *, restart: bool,
        on_exit: Callable[[str], object] | None,
    ) -> None:  # fmt: skip
        self._command = (*(default_command() if command is None else command), *options)
        self._restart = restart
        self._on_exit = on_exit
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._subscribing = threading.Lock()
        """Held while the running worker is told which events are wanted: what it hears last is what holds."""
        # All mutable state, guarded by the first, under which nothing waits: the worker that answers, the start of one, and its
        # process once there is one.
        self._readers: list[Events] = []
        self._current: Connection | None = None
        self._starting: Future[Connection] | None = None
        self._coming: Connection | None = None
        self._ends = self._quick_ends = 0
        self._not_before = 0.0
        self._closed = False
        try:
            self.connection()
        except BaseException:  # also where whoever waits for it is interrupted
            self.close()
            raise

    def connection(self, options: CallOptions = _PATIENT) -> Connection:
        """Return the running worker, started anew if the last one died. WorkerExitedError if there is none.

        DeadlineExceededError where its start takes longer than a call has time: it goes on, for the others.
        """
        self.check_process()
        with self._lock:
            if self._current is not None and self._current.alive:
                return self._current
            starting = self._starting = self._starting or self._begin()
        wait((starting,), within(options))
        if not starting.done():
            message = f"not sent within its {options.deadline_ms} ms: the worker is being started"
            raise DeadlineExceededError(message)
        return starting.result()

    def check_process(self) -> None:
        """See that this process has the worker, and was not forked from the one that has. WorkerExitedError."""
        if self._pid != os.getpid():
            message = f"the worker is that of process {self._pid}, from which this one was forked: connect in this one, too"
            raise WorkerExitedError(message, Executed.NO)

    @property
    def running(self) -> Connection | None:
        """The running worker; None while there is none. Starts none, and so never waits."""
        current = self._current
        return current if current is not None and current.alive else None

    def send(
        self, action: str, data: dict[str, Any], options: CallOptions, receiver: Receiver
    ) -> tuple[Connection, str]:
        """Send a request to the worker of this moment. Returns that and the request's id."""
        connection = self.connection(options)
        return connection, connection.send(action, data, options, receiver)

    def subscribe(self, names: tuple[EventName | str, ...], figures_every_ms: int) -> Events:
        """Return a new reader of events; of this worker and of those that replace it."""
        events = Events(names_of(names), figures_every_ms, self._unsubscribe)
        connection = self.connection()
        with self._subscribing:
            with self._lock:
                self._readers.append(events)
            try:
                self._ask_for_events(connection)
            except BaseException:
                self._forget(events)
                raise
        return events

    def close(self) -> None:
        """End the worker, also one that is being started, and every reader of events. Nothing in a process that was forked."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._closed = True
            current, coming, starting = self._current, self._coming, self._starting
            readers, self._readers = self._readers, []
        for each in (current, coming):
            if each is not None:
                each.close()
        if starting is not None:
            wait((starting,))
        for events in readers:
            events.put(None)

    # ---- inside ----

    def _begin(self) -> Future[Connection]:
        """Begin to start one, with the lock. WorkerExitedError where none is to be started, or not yet."""
        if self._current is not None:
            self._note_end(self._current.lived_seconds)
            self._current = None
        if self._closed or (self._ends and not self._restart):
            message = "the client is closed" if self._closed else "the worker died, and restart=False"
            raise WorkerExitedError(message, Executed.NO)
        left = self._not_before - time.monotonic()
        if left > 0:
            message = f"the worker died {self._quick_ends} times at its start; tried again in {left:.1f} s"
            raise WorkerExitedError(message, Executed.NO)
        starting = Future[Connection]()
        try:
            threading.Thread(
                target=self._start, args=(starting,), name="memory-worker-start", daemon=True
            ).start()
        except RuntimeError as error:  # the system has no thread for it
            message = f"the worker could not be started: {error}"
            raise WorkerExitedError(message, Executed.NO) from error
        return starting

    def _start(self, starting: Future[Connection]) -> None:
        """Start one, on a thread of its own: whoever waits for it may have to leave, and others have no need of it."""
        try:
            connection = self._introduced(Connection(self._command, self._event, self._ended))
        except BaseException as error:  # noqa: BLE001 - it is those who wait that it concerns
            with self._lock:
                self._coming = self._starting = None
                self._note_end(0.0)
            starting.set_exception(error)
        else:
            starting.set_result(connection)

    def _introduced(self, connection: Connection) -> Connection:
        """Have a started worker say what it is, and send the events that are wanted. If it does not, it is ended."""
        try:
            with self._lock:
                self._coming = connection
            self._check_open()
            connection.introduce()
            if self._readers:
                self._ask_for_events(connection)
            with self._lock:
                self._check_open()
                self._current, self._coming, self._starting = connection, None, None
        except BaseException as error:
            connection.close()
            if isinstance(error, WorkerError):
                message = f"the worker could not be started: {error}"
                raise WorkerExitedError(message, Executed.NO) from error
            raise
        return connection

    def _check_open(self) -> None:
        if self._closed:
            message = "the client is closed"
            raise WorkerExitedError(message, Executed.NO)

    def _unsubscribe(self, events: Events) -> None:
        """Have the worker send no more than is still wanted; one that is dead, or refuses, sends what no reader takes."""
        with self._subscribing, suppress(WorkerError, WorkerExitedError):
            if self._forget(events) and (connection := self.running) is not None:
                self._ask_for_events(connection)

    def _forget(self, events: Events) -> bool:
        with self._lock:
            there = events in self._readers
            if there:
                self._readers.remove(events)
        return there

    def _ask_for_events(self, connection: Connection) -> None:
        readers = tuple(self._readers)
        names = sorted(frozenset[str]().union(*(each.names for each in readers)) - {"progress"})
        every_ms = [each.figures_every_ms for each in readers if EventName.FIGURES in each.names]
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

"""Events as they come, for whoever asked for them."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

from protocol.events import EVENTS
from protocol.record import Record
from protocol.vocabulary import EventName
from worker.client.values import read

_QUEUED_MAX = 4096
"""Events that wait for a reader; then the oldest go, and are counted."""

_END = None


class Event(Record):
    """One event."""

    name: str
    sequence: int
    """Counts this worker's events; a new process begins at 1."""
    data: Any
    """The record of the contract; a dict for an event that this client does not know."""


def event_of(message: dict[str, Any]) -> Event:
    """Return the event of a line."""
    name, data = str(message.get("event")), message.get("data")
    known = {str(each): kind for each, kind in EVENTS.items()}
    return Event(name, int(message.get("sequence") or 0), read(known[name], data) if name in known else data)


class Events(Iterator[Event]):
    """A subscription: iterate over it, or ``get`` with a timeout. Ends with its client, or by ``close``."""

    def __init__(
        self, names: frozenset[str], figures_every_ms: int, on_close: Callable[["Events"], None]
    ) -> None:
        self.names = names
        self.figures_every_ms = figures_every_ms
        """How often ``memory.figures`` are wanted, if they are among the names."""
        self.dropped = 0
        """Events that came faster than they were read."""
        self._on_close = on_close
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def put(self, event: Event | None) -> None:
        """Add an event; None for the end."""
        with self._lock:
            if event is not _END and self._inbox.qsize() >= _QUEUED_MAX:
                self._inbox.get_nowait()
                self.dropped += 1
            self._inbox.put(event)

    def get(self, timeout: float | None = None) -> Event:
        """Return the next one. TimeoutError after so many seconds, StopIteration at the end."""
        try:
            event = self._inbox.get(timeout=timeout)
        except queue.Empty:
            message = f"no event of {', '.join(sorted(self.names))} within {timeout} s"
            raise TimeoutError(message) from None
        if event is _END:
            self._inbox.put(_END)
            raise StopIteration
        return event

    def close(self) -> None:
        """End the subscription."""
        self._on_close(self)
        self.put(_END)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        return self.get()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def names_of(names: tuple[EventName | str, ...]) -> frozenset[str]:
    """Return the names; where none is given all that tell of what happened, and so not ``memory.figures``."""
    return frozenset(map(str, names or EVENTS.keys() - {EventName.FIGURES}))

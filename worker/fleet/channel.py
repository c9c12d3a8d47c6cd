"""Events of all nodes to the host: numbered here, coalesced where they arose."""

import itertools
import weakref
from collections.abc import Callable
from typing import Any

import orjson

from protocol.vocabulary import EventName
from worker.core.events import Event
from worker.core.sure_lock import SureLock
from worker.instructor.events import event_types
from worker.stream.event_channel import Write
from worker.stream.event_frame import EventFrame, OnWire
from worker.stream.frames import event_frame

_FRAME_BYTES = 128
"""About what a frame has around its data."""
_NAMES = {event_types((each,))[0]: each for each in EventName}


class Channel:
    """The subscription. Thread-safe."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._lock = SureLock()
        self._numbers = itertools.count(1)
        # All mutable state.
        self._wanted: frozenset[EventName] = frozenset()
        self._unread: Callable[[], EventFrame | None] = lambda: None

    def subscribe(self, events: tuple[type[Event], ...]) -> None:
        """Send these from now on; the numbers go on."""
        self._wanted = frozenset(_NAMES[each] for each in events)

    def publish(self, name: str, data: Any) -> None:
        """Send an event, where the host asked for it."""
        if name not in self._wanted:
            return
        written = orjson.dumps(data)
        body = orjson.Fragment(written)

        def numbered() -> bytes:
            return event_frame(name, None, next(self._numbers), body)

        with self._lock:
            self._write(numbered, len(written) + _FRAME_BYTES, self._skip)

    def publish_newest(self, event: Event, on_wire: OnWire) -> None:
        """Send an event that takes the place of one of its kind that the host has not read, where it asked for it."""
        if on_wire(event)[0] not in self._wanted:
            return
        with self._lock:
            unread = self._unread()
            if unread is None or not unread.replace(event):
                frame = EventFrame(self._numbers, on_wire, event)
                self._unread = weakref.ref(frame)
                self._write(frame, frame.size_bytes, self._skip)

    def _skip(self) -> None:
        next(self._numbers)


Publish = Callable[[str, Any], None]

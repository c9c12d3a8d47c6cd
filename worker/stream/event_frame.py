"""An event on its way: its number is that of when it is written, and until then a later one may take its place."""

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from worker.core.events import Event
from worker.core.sure_lock import SureLock
from worker.stream.frames import compact, event_frame
from worker.stream.json_values import json_of

_FRAME_BYTES = 128
"""About what a frame has around its data."""

OnWire = Callable[[Event], tuple[str, Any]]
"""Returns an event's name on the wire, and its data as it is written."""


class EventFrame:
    """Makes the bytes when it is called, once."""

    def __init__(self, numbers: Iterator[int], on_wire: OnWire, event: Event) -> None:
        self._numbers = numbers
        self._on_wire = on_wire
        self._lock = SureLock()
        # All mutable state: what is to be written, None once it was.
        self._event: Event | None = event
        self._name, self._body = self._of(event)
        self.size_bytes = len(self._body) + _FRAME_BYTES

    def replace(self, later: Event) -> bool:
        """Write a later event instead, which stands for both. False if this one is written already."""
        with self._lock:
            if self._event is None:
                return False
            merged = self._event.merged_with(later)
            self._name, self._body = self._of(merged)
            self._event = merged
            return True

    def __call__(self) -> bytes:
        """Return the frame, numbered; it can't be replaced any more."""
        with self._lock:
            frame = event_frame(self._name, None, next(self._numbers), orjson.Fragment(self._body))
            self._event = None
            return frame

    def _of(self, event: Event) -> tuple[str, bytes]:
        """Return an event's name, and its data as it is written."""
        name, data = self._on_wire(event)
        try:
            written = orjson.dumps(data)
        except TypeError:
            written = orjson.dumps(json_of(data))
        return name, compact(written)  # it may wait for long

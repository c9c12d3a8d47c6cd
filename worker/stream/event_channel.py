"""Events to a host that asked for them: numbered, and only the latest where they come fast.

A gap in the numbers says that so many were dropped, because the host did not read.
"""

import itertools
import weakref
from collections.abc import Callable

from worker.core.clock import NS_PER_MS, Clock
from worker.core.events import Event
from worker.core.log import log
from worker.core.sure_lock import SureLock
from worker.stream.alarm import Alarm
from worker.stream.event_frame import EventFrame, OnWire

INTERVAL_NS = 250 * NS_PER_MS
"""The same event about the same thing is sent at most four times a second."""

_Key = tuple[type[Event], str]


Write = Callable[[Callable[[], bytes], int, Callable[[], None]], None]
"""Takes what makes a frame, its size in bytes, and what is to be called for each frame that it drops. Never waits."""


class EventChannel:
    """The subscription. Bounded: for each event and thing at most one waits to be sent."""

    def __init__(self, write: Write, clock: Clock, alarm: Alarm, interval_ns: int, on_wire: OnWire) -> None:
        self._write = write
        self._on_wire = on_wire
        self._clock = clock
        self._alarm = alarm
        self._interval_ns = interval_ns
        self._lock = SureLock()
        # All mutable state.
        self._wanted: frozenset[type[Event]] = frozenset()
        self._numbers = itertools.count(1)
        self._sent_ns: dict[_Key, int] = {}
        self._sent: dict[_Key, Event] = {}
        """The last that was sent."""
        self._waiting: dict[_Key, Event] = {}
        self._unread: dict[type[Event], weakref.ref[EventFrame]] = {}
        """Frames that are still to be written, and may be replaced; dead once they were dropped instead."""

    def subscribe(self, events: tuple[type[Event], ...]) -> None:
        """Send these events from now on; the numbers go on."""
        with self._lock:
            self._wanted = frozenset(events)
            self._waiting.clear()
            self._sent.clear()

    def wanted(self, event: type[Event]) -> bool:
        """Tell whether the host asked for an event."""
        return event in self._wanted

    def publish(self, event: Event) -> None:
        """Send an event now, or hold it back until the interval is over. Never raises: telling is no part of doing."""
        if type(event) not in self._wanted:
            return
        try:
            self._publish(event)
        except Exception as error:  # noqa: BLE001 - memory that is short, or a bug
            log(
                "error", "an event was lost", event=type(event).__name__, about=event.about, error=repr(error)
            )

    def _publish(self, event: Event) -> None:
        about = event.about
        if about is None:
            self._send(event)
            return
        key, now = (type(event), about), self._clock.now_ns()
        with self._lock:
            due = self._sent_ns.get(key, now - self._interval_ns) + self._interval_ns
            waiting = self._waiting.get(key)
            if waiting is not None:
                self._waiting[key] = waiting.merged_with(event)
                return
            if due > now:
                sent = self._sent.get(key)
                if sent is not None and event.precedes(sent):
                    return
                self._alarm.at(due, lambda: self._send_waiting(key))
                self._waiting[key] = event
                return
            self._note_sent(key, now, event)
        self._send(event)

    def _send_waiting(self, key: _Key) -> None:
        with self._lock:
            event = self._waiting.pop(key, None)
            if event is None or key[0] not in self._wanted:
                return
            self._note_sent(key, self._clock.now_ns(), event)
        if not event.is_noop():
            self._send(event)

    def _note_sent(self, key: _Key, now: int, event: Event) -> None:
        if len(self._sent_ns) > 4096:  # noqa: PLR2004 - many things were told of once: start over
            self._sent_ns.clear()
            self._sent.clear()
        self._sent_ns[key] = now
        self._sent[key] = event

    def _send(self, event: Event) -> None:
        if not event.replaces_unread():
            frame = EventFrame(self._numbers, self._on_wire, event)
            self._write(frame, frame.size_bytes, self._skip)
            return
        with self._lock:
            unread = self._unread.get(type(event), lambda: None)()
            if unread is not None and unread.replace(event):
                return
            frame = EventFrame(self._numbers, self._on_wire, event)
            self._unread[type(event)] = weakref.ref(frame)
        self._write(frame, frame.size_bytes, self._skip)

    def _skip(self) -> None:
        next(self._numbers)

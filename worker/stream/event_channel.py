"""Events to a host that asked for them: numbered without gaps, and only the latest where they come fast."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from protocol.results import BudgetChangedData
from protocol.vocabulary import EventName
from worker.core.clock import NS_PER_MS, Clock
from worker.stream.alarm import Alarm
from worker.stream.frames import event_frame

INTERVAL_NS = 250 * NS_PER_MS
"""The same event about the same thing is sent at most four times a second."""


class EventChannel:
    """The subscription. Bounded: for each event and thing at most one waits to be sent."""

    def __init__(
        self, write: Callable[[Callable[[], bytes]], None], clock: Clock, alarm: Alarm, interval_ns: int
    ) -> None:
        self._write = write
        self._clock = clock
        self._alarm = alarm
        self._interval_ns = interval_ns
        self._lock = threading.Lock()
        # All mutable state.
        self._wanted: frozenset[EventName] = frozenset()
        self._sequence = 0
        self._sent_ns: dict[tuple[EventName, str], int] = {}
        self._sent: dict[tuple[EventName, str], Any] = {}
        """The last that was sent of what goes from one state to another."""
        self._waiting: dict[tuple[EventName, str], Any] = {}

    def subscribe(self, events: tuple[EventName, ...]) -> None:
        """Send these events from now on; the numbers go on."""
        with self._lock:
            self._wanted = frozenset(events)
            self._waiting.clear()
            self._sent.clear()

    def wanted(self, event: EventName) -> bool:
        """Tell whether the host asked for an event."""
        return event in self._wanted

    def publish(self, event: EventName, about: str, data: Any) -> None:
        """Send an event now, or hold it back until the interval is over."""
        if event not in self._wanted:
            return
        key, now = (event, about), self._clock.now_ns()
        with self._lock:
            due = self._sent_ns.get(key, now - self._interval_ns) + self._interval_ns
            if due > now and key not in self._waiting and _comes_late(data, self._sent.get(key)):
                return
            if key in self._waiting or due > now:
                if key not in self._waiting:
                    self._alarm.at(due, lambda: self._send_waiting(key))
                self._waiting[key] = _merged(self._waiting.get(key), data)
                return
            self._note_sent(key, now, data)
        self._send(event, data)

    def _send_waiting(self, key: tuple[EventName, str]) -> None:
        with self._lock:
            data = self._waiting.pop(key, None)
            if data is None or key[0] not in self._wanted:
                return
            self._note_sent(key, self._clock.now_ns(), data)
        if not _is_none(data):
            self._send(key[0], data)

    def _note_sent(self, key: tuple[EventName, str], now: int, data: Any) -> None:
        if len(self._sent_ns) > 4096:  # noqa: PLR2004 - many things were told of once: start over
            self._sent_ns.clear()
            self._sent.clear()
        self._sent_ns[key] = now
        if isinstance(data, dict) and "from" in data:
            self._sent[key] = data

    def _send(self, event: EventName, data: Any) -> None:
        def numbered() -> bytes:
            self._sequence += 1
            return event_frame(event, None, self._sequence, data)

        self._write(numbered)


def _comes_late(data: Any, other: Any) -> bool:
    """Tell whether a step comes after the one that followed it: two threads saw one each, and one was faster."""
    if not isinstance(data, dict) or not isinstance(other, dict) or "from" not in data:
        return False
    return bool(other["from"] == data["to"] and other["to"] != data["from"])


def _merged(waiting: Any, data: Any) -> Any:
    """Let the later event stand for both: from where the first began."""
    if _comes_late(data, waiting):
        return {**waiting, "from": data["from"]}
    if isinstance(waiting, dict) and "from" in waiting:
        return {**data, "from": waiting["from"]}
    if isinstance(waiting, BudgetChangedData):
        return replace(data, previous_bytes=waiting.previous_bytes)
    return data


def _is_none(data: Any) -> bool:
    """Tell whether it came to nothing: what changed is back where it was."""
    if isinstance(data, BudgetChangedData):
        return data.previous_bytes == data.budget_bytes
    return isinstance(data, dict) and data.get("from") == data.get("to")

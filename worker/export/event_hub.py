"""Events to everyone who follows them: the host first, then the record and the live views."""

from collections.abc import Callable
from typing import Any

from protocol.vocabulary import EventName
from worker.stream.event_channel import EventChannel

Follow = Callable[[EventName, str, Any], None]
"""Called with an event, what it is about, and its data. Must not wait."""


class EventHub:
    """Passes events on."""

    def __init__(self, host: EventChannel) -> None:
        self._host = host
        self.wanted = host.wanted
        # All mutable state: who follows beside the host.
        self._followers: tuple[Follow, ...] = ()

    def follow(self, follow: Follow) -> None:
        """Pass events on to one more, from now on."""
        self._followers = (*self._followers, follow)

    def publish(self, event: EventName, about: str, data: Any) -> None:
        """Tell everyone."""
        self._host.publish(event, about, data)
        for follow in self._followers:
            follow(event, about, data)

"""Events to everyone who follows them: the host first, then the record and the live views."""

from worker.core.events import Event, Publish
from worker.stream.event_channel import EventChannel


class EventHub:
    """Passes events on."""

    def __init__(self, host: EventChannel) -> None:
        self._host = host
        self.wanted = host.wanted
        # All mutable state: who follows beside the host.
        self._followers: tuple[Publish, ...] = ()

    def follow(self, publish: Publish) -> None:
        """Pass events on to one more, from now on. What is called must not wait."""
        self._followers = (*self._followers, publish)

    def publish(self, event: Event) -> None:
        """Tell everyone."""
        self._host.publish(event)
        for publish in self._followers:
            publish(event)

"""What nearly every part above the manager needs, made once by ``worker.app`` and handed on as one record."""

from collections.abc import MutableMapping
from typing import Protocol

from protocol.record import Record
from worker.backends.base import DeviceBackend
from worker.core.clock import Clock
from worker.core.events import Event
from worker.core.health import Health
from worker.manager.manager_memory import MemoryManager
from worker.metrics.history import History


class Events(Protocol):
    """Where events go."""

    def publish(self, event: Event) -> None:
        """Tell of something. Of two events of one kind about the same thing, one may stand for both."""
        ...

    def wanted(self, kind: type[Event]) -> bool:
        """Tell whether the host asked for a kind of event."""
        ...


class NoEvents:
    """Events that no one follows."""

    def publish(self, event: Event) -> None:
        """Tell no one."""

    def wanted(self, _kind: type[Event]) -> bool:
        """Say that no one asked."""
        return False


class Core(Record):
    """The worker's time, record, events, numbers, devices and health."""

    clock: Clock
    history: History
    events: Events
    manager: MemoryManager
    backends: MutableMapping[str, DeviceBackend]
    """By device id. Devices that a probe reveals are added by the device monitor, and none is ever removed."""
    health: Health
    """Where parts are added that can say how they are."""

"""What is told unasked: to a host that subscribed, to the record, and to live views."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

from protocol.record import Record
from protocol.results import DeviceFigures, Eviction, Expiration, PressureTrend, ReleasedMemory, SuspectedLeak
from protocol.vocabulary import PressureLevel, Source
from worker.core.actions import Recommended, Step


class Event(Record):
    """Something that happened, when it happened; the time it is told is the channel's."""

    @property
    def about(self) -> str | None:
        """What it is about: of events of one kind about one thing that come fast, the latest stands for all.

        None for an event that no other stands for.
        """
        return None

    def merged_with(self, later: Self) -> Self:
        """Return what stands for both, where neither was told yet."""
        return later

    def is_noop(self) -> bool:
        """Tell whether there is nothing left to tell, after merging."""
        return False

    def replaces_unread(self) -> bool:
        """Tell whether it takes the place of one of its kind that is still to be written, merged with it."""
        return False

    def precedes(self, _other: Self) -> bool:
        """Tell whether it happened before another that was published first: two threads saw one each."""
        return False


class Figures(Event):
    """What a subscriber is told of regularly, whatever happens."""

    uptime_ms: int
    pressure_level: PressureLevel
    devices: tuple[DeviceFigures, ...]
    recommendations: tuple[Recommended, ...]
    skipped: int = 0
    """Figures that were taken and not told: these are newer."""

    def merged_with(self, later: Self) -> Self:
        """Return the later ones, which say how many they stand for."""
        return replace(later, skipped=self.skipped + 1)

    def replaces_unread(self) -> bool:
        """Tell that a subscriber which does not read needs only the newest."""
        return True


class Change(Event):
    """A step from one state of a device to another."""

    device_id: str
    before: Any
    after: Any

    @property
    def about(self) -> str:
        """Its device."""
        return self.device_id

    def merged_with(self, later: Self) -> Self:
        """Return one step from where the first began to where the last ended."""
        if later.precedes(self):
            return replace(self, before=later.before)
        return replace(later, before=self.before)

    def is_noop(self) -> bool:
        """Tell whether it is back where it was."""
        return bool(self.before == self.after)

    def precedes(self, other: Self) -> bool:
        """Tell whether the other goes on where this one ends."""
        return bool(other.before == self.after and other.after != self.before)


class PressureChanged(Change):
    """A device's pressure level is another."""

    before: PressureLevel
    after: PressureLevel
    pressure_percentage: float | None
    available_bytes: int | None


class BudgetChanged(Change):
    """The most that this worker may use of a device is another."""

    before: int | None
    after: int | None
    budget_source: Source | None
    available_bytes: int | None


class DemotionChanged(Change):
    """Another amount of this process's device memory is in the system's memory instead."""

    before: int
    after: int


class ExhaustionForecast(Event):
    """A device is about to run out, if it goes on like this."""

    device_id: str
    available_bytes: int | None
    trend: PressureTrend | None
    """None once it is not about to any more."""

    @property
    def about(self) -> str:
        """Its device."""
        return self.device_id


class LeakSuspected(Event):
    """Something looks like a leak."""

    leak: SuspectedLeak

    @property
    def about(self) -> str:
        """What grows."""
        leak = self.leak
        return f"{leak.device_id} {leak.kind} {leak.owner!r} {leak.purpose!r}"


class Optimized(Event):
    """The worker made headroom by itself."""

    device_id: str
    pressure_level: PressureLevel
    """Which was sustained, and so led to it."""
    steps: tuple[Step, ...]
    claimed_bytes: int | None
    """What the steps should have freed."""
    returned_bytes: int | None
    helped: bool
    next_in_ms: int
    reason: str
    released: tuple[ReleasedMemory, ...] = ()
    """What consumers gave back; not among the steps."""

    @property
    def about(self) -> str:
        """Its device."""
        return self.device_id


class AllocationExpired(Event):
    """A lease ran out and the allocation was freed."""

    expiration: Expiration


class ModelUnloaded(Event):
    """A model was dropped, and why."""

    eviction: Eviction

    @property
    def about(self) -> str:
        """Its model."""
        return self.eviction.model_id


class UnloadRequested(Event):
    """A model that another process holds is wanted unloaded; nothing is freed until its owner says so."""

    model_id: str
    device_id: str
    size_bytes: int
    """What its owner declared."""
    reason: str
    wait_ms: int | None
    """How long an answer is waited for; None where nothing waits."""

    @property
    def about(self) -> str:
        """Its model."""
        return self.model_id


class ReleaseRequested(Event):
    """A consumer that the host registered is to give memory back; nothing counts before it says so.

    No later one stands for it: each is waited for.
    """

    consumer_id: str
    bytes: int
    limit_bytes: int
    reason: str
    wait_ms: int


class ConsumerLimitChanged(Event):
    """The most that a consumer is to hold is another."""

    consumer_id: str
    limit_bytes: int | None
    """None for no limit any more."""
    reason: str

    @property
    def about(self) -> str:
        """Its consumer."""
        return self.consumer_id


class DeviceLost(Event):
    """A device went away, and its contents with it."""

    device_id: str
    reason: str
    allocation_ids: tuple[str, ...]
    model_ids: tuple[str, ...]


class ContentsDisplaced(Event):
    """What of a device's contents is in host memory until the device has headroom for it; nothing, once all is back."""

    device_id: str
    reason: str | None
    displaced_bytes: int
    allocation_ids: tuple[str, ...]
    model_ids: tuple[str, ...]

    @property
    def about(self) -> str:
        """Its device."""
        return self.device_id


class DeviceRecovered(Event):
    """A device that was lost can be asked for memory again. Nothing that was on it came back."""

    device_id: str
    lost_ms: int
    """How long it was away."""


Publish = Callable[[Event], None]
"""Tells of an event, to whoever wants to know. Does not wait."""

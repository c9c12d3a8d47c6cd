"""What is said of whoever holds memory and gives it back."""

from protocol.record import Record
from protocol.results.numbers import Bytes, Cost, Count, Milliseconds


class RegisterConsumerResult(Record):
    """The consumer is known, and the most that it is to hold now."""

    consumer_id: str
    created: bool
    limit_bytes: Bytes | None
    """Null for no limit."""


class ReleasedResult(Record):
    """What the consumer holds now, as far as it was said, and the most that it is to hold."""

    consumer_id: str
    held_bytes: Bytes
    limit_bytes: Bytes | None


class UnregisterConsumerResult(Record):
    """The consumer is not known any more."""

    consumer_id: str
    existed: bool


class ConsumerStatus(Record):
    """One consumer of memory: of the host, of a plugin, or one of the worker's own models and pools."""

    consumer_id: str
    kind: str
    device_id: str
    held_bytes: Bytes
    floor_bytes: Bytes
    """What it can't give back."""
    in_use_bytes: Bytes
    """What is in use just now, and so can't go either."""
    limit_bytes: Bytes | None
    """The most that it is to hold; null for no limit."""
    hits: Count | None
    misses: Count | None
    saved_ms: Cost | None
    price_ms_per_mib: Cost | None
    """Of the next MiB; null where it is unknown, or there is nothing to be had."""
    claimed_bytes: Bytes
    """What it said it gave back, since it is known."""
    returned_bytes: Bytes
    """What of that the device's readings showed."""
    last_released_ms_ago: Milliseconds | None
    overhead_bytes: Bytes | None = None
    """What it takes beside ``held_bytes`` that goes with nothing it gives back: of a store, as in ``store.stats``; null where it does not say."""


class GetConsumersResult(Record):
    """What holds memory, and what giving it back costs."""

    consumers: tuple[ConsumerStatus, ...]

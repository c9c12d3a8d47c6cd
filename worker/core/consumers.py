"""What holds memory and gives it back, for a price: the seam that models, pools, hosts, servers and stores share.

The currency is expected milliseconds of rebuilding: what building it again takes, by how often it is expected to be
needed in the next ten minutes, or before it would go anyway.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeGuard, runtime_checkable

from protocol.record import Record
from worker.core.cancellation import CancelToken

MIB = 2**20

EXTERNAL = "external"
"""The kind of a model that another process holds."""

POOL = "pool"
"""The kind of what a device keeps for reuse."""

ENGINE = "engine"
"""The kind of what an engine keeps beside a model, which stays."""

MODEL_PREFIX, ENGINE_PREFIX, POOL_PREFIX = "model:", f"{ENGINE}:", f"{POOL}:"
EXTERNAL_PREFIX, SERVER_PREFIX = f"{EXTERNAL}:", "server:"
"""Before the id of the model or the device, or the server's name, in the name of such a consumer."""

OWN_PREFIXES = (MODEL_PREFIX, ENGINE_PREFIX, POOL_PREFIX, EXTERNAL_PREFIX, SERVER_PREFIX)
"""The worker's own consumers are called so, and no other."""


class Holding(Record):
    """What a consumer holds at one moment, in bytes."""

    held_bytes: int
    floor_bytes: int = 0
    """What it can't give back."""
    in_use_bytes: int = 0
    """What is in use just now, and so can't go either."""

    @property
    def spare_bytes(self) -> int:
        """The most that may be asked for."""
        return max(0, self.held_bytes - max(self.floor_bytes, self.in_use_bytes))


class Offer(Record):
    """A next part of what a consumer holds, and what giving it back costs."""

    bytes: int
    cost_ms: float
    """Expected milliseconds of rebuilding: the time it takes, by how often it is expected to be needed in ten minutes."""
    reason: str
    """Where the price comes from, in words that end a sentence; empty for none."""
    divisible: bool = False
    """Whether any part of it may be asked for, at its share of the cost."""
    tag: object = None
    """The consumer's own, by which it knows the offer again; no one else reads it."""


class Consumer(Protocol):
    """Something in this process that holds memory. Methods are called by any thread, and by several at once.

    ``holding`` and ``offers`` are asked for every plan: they answer at once, of figures at hand. What they raise is
    logged, and means that nothing is offered.
    """

    @property
    def consumer_id(self) -> str:
        """Its name, which no other consumer has. What begins with ``model:``, ``engine:``, ``pool:``, ``external:`` or ``server:`` is the worker's own."""
        ...

    @property
    def kind(self) -> str:
        """What sort of thing it is, for people: such as ``response_cache``."""
        ...

    @property
    def device_id(self) -> str:
        """Where its memory is."""
        ...

    def holding(self) -> Holding:
        """Return what it holds now."""
        ...

    def offers(self, need_bytes: int) -> tuple[Offer, ...]:
        """Return what it would give back, cheapest per byte first; more than is needed is no use."""
        ...

    def release(self, offer: Offer, token: CancelToken) -> int:
        """Give back what was offered, or what is still there of it. Returns the bytes it claims to have given back.

        ``offer.bytes`` is less than was offered where it is divisible and less is enough. What counts is what the
        device's readings show afterwards. It ends when the token does, and raises what that raises, or nothing.
        """
        ...


@runtime_checkable
class LimitedConsumer(Consumer, Protocol):
    """A consumer that is told how much it may hold."""

    def limit_changed(self, limit_bytes: int | None, reason: str) -> None:
        """Take over the most that it is to hold; None for no limit. Must not wait."""
        ...


def is_limited(consumer: Consumer) -> TypeGuard[LimitedConsumer]:
    """Tell whether a consumer is told how much it may hold.

    By what it has besides alone: ``isinstance`` with a protocol looks for every member, which takes 60 µs on Python 3.11, and
    there may be hundreds of consumers.
    """
    return hasattr(consumer, "limit_changed")


@runtime_checkable
class IdleConsumer(Consumer, Protocol):
    """A consumer of the worker's own that keeps memory for its next use, at no cost: what is idle goes with a device's caches."""

    def give_back(self) -> tuple[int, int | None]:
        """Give back what is idle. Returns its bytes, and how many of them the system has back; None where that is not known."""
        ...


def keeps_idle(consumer: Consumer) -> TypeGuard[IdleConsumer]:
    """Tell whether what a consumer keeps goes with the caches: of the worker's own, whatever others have methods of."""
    return consumer.consumer_id.startswith(POOL_PREFIX) and hasattr(consumer, "give_back")


class Usage(Record):
    """What came of what a consumer kept, since it began; None where it does not say."""

    hits: int | None = None
    misses: int | None = None
    saved_ms: float | None = None
    overhead_bytes: int | None = None
    """What it takes now beside what it holds."""


@runtime_checkable
class CountingConsumer(Consumer, Protocol):
    """A consumer that counts its uses."""

    def usage(self) -> Usage:
        """Return how often what was asked for was there, what that saved, and what it takes to know that."""
        ...


def is_counting(consumer: Consumer) -> TypeGuard[CountingConsumer]:
    """Tell whether a consumer counts its uses; as ``is_limited`` does."""
    return hasattr(consumer, "usage")


class Consumers(Protocol):
    """Where consumers of this process are added."""

    def add(self, consumer: Consumer) -> None:
        """Have a consumer take part from now on.

        ValueError for a name that another has, or that is of the worker's own; DeviceNotFoundError for its device.
        """
        ...

    def remove(self, consumer_id: str) -> None:
        """Have a consumer that was added take part no more; nothing happens to one that was not."""
        ...


class Quote(Record):
    """What a consumer holds and offers at one moment: what a plan is made from."""

    consumer_id: str
    kind: str
    device_id: str
    holding: Holding
    offers: tuple[Offer, ...]
    """Cheapest per byte first, as declared."""
    expected_yield: float = 1.0
    """Share of what it claims to give back that the device's readings showed before."""
    silent: str | None = None
    """Why it is not asked, whatever it offers; None where it is."""
    counted: bool = False
    """Whether what it offers counts as headroom already: it goes whenever anything is needed, and meets none of it."""
    allocated: bool = False
    """Whether what it offers are allocations of the ledger, so that giving them back helps below a cap of the worker's own."""
    times: float = 1.0
    """What each offer's cost counts for: how often what goes is expected to be built again, where the offers don't say."""
    because: Callable[[], str] | None = None
    """Says where ``times`` comes from, in words that end a sentence."""
    front: float | None = None
    """Milliseconds per byte that is expected back of the first offer, where it is known that neither a part of it nor any later
    offer with it is cheaper (``front_of``): a plan looks no further, unless it takes of this consumer. None for what is ``counted``."""


class Release(Record):
    """What one consumer is asked for."""

    consumer_id: str
    kind: str
    bytes: int
    """What it is asked to give back."""
    expected_bytes: int
    """What is expected to come back of it."""
    cost_ms: float
    offers: tuple[Offer, ...]
    """What of its offers that is, at their costs as declared; of the last one only a part, where it is divisible."""
    reason: str
    counted: bool = False
    """Whether it counts as headroom already."""
    allocated: bool = False
    """Whether it is in the ledger, and so helps below a cap of the worker's own."""


def front_of(
    offers: Sequence[Offer], holding: Holding, times: float = 1.0, expected_yield: float = 1.0
) -> float | None:
    """Return what ``Quote.front`` is: None unless every offer is of something, none cheaper than the one before, and the first can be had whole."""
    if not offers or expected_yield <= 0 or offers[0].bytes > holding.spare_bytes:
        return None
    before, spent = 1, 0.0
    for offer in offers:
        size, cost = offer.bytes, offer.cost_ms
        if size <= 0 or spent * size > cost * before:
            return None
        before, spent = size, cost
    return offers[0].cost_ms * times / (offers[0].bytes * expected_yield)


def price_per_mib(cost_ms: float, size_bytes: int) -> float:
    """Return a price as it is told: milliseconds a MiB."""
    return cost_ms * MIB / size_bytes if size_bytes else 0.0


def told_bytes(size_bytes: int) -> str:
    """Return a size for people."""
    return f"{size_bytes / MIB:.4g} MiB"

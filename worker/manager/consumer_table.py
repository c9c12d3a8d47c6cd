"""Consumers of memory that other processes registered, and what came of every consumer's promises. Pure; the manager locks."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from protocol.record import Record
from protocol.results import ConsumerStatus
from protocol.vocabulary import PressureLevel
from worker.core.clock import NS_PER_MS, NS_PER_S, Clock
from worker.core.consumers import MIB, Holding, Offer, Quote, Usage, front_of, price_per_mib
from worker.core.errors import ConsumerNotFoundError, InvalidRequestError
from worker.core.sure_lock import SureRLock
from worker.eviction.use_rate import UseRate
from worker.policy.consumer_limits import ConsumerLimit, fall, rise

CONSUMERS_MAX = 1024
"""Registered at a time: each is looked at for every plan."""

_PAUSE_NS, _PAUSE_MAX_NS = 30 * NS_PER_S, 960 * NS_PER_S
"""For how long one is not asked after it was silent; twice as long each time."""

_LATEST = 0.5
"""Weight of the latest release in what the next promise counts for."""

_LEAST_YIELD = 0.05
"""Below this nothing is expected of a promise."""


class Registration(Record):
    """What a host says of a consumer."""

    consumer_id: str
    kind: str
    device_id: str
    held_bytes: int
    floor_bytes: int
    offers: tuple[Offer, ...]
    hits: int | None = None
    misses: int | None = None
    saved_ms: float | None = None
    owner: str | None = None
    lease_ns: int | None = None


class Promises:
    """What one consumer claimed to give back, and what of it came back."""

    def __init__(self) -> None:
        # All mutable state.
        self.claimed_bytes = self.returned_bytes = 0
        self.last_ns: int | None = None
        self.expected_yield = 1.0
        self.pause_ns = 0
        self.silent_until_ns = 0

    def kept(self, claimed_bytes: int, returned_bytes: int | None, now_ns: int) -> None:
        """Note what was claimed, and what of it the readings showed; None where they can't tell."""
        self.pause_ns = self.silent_until_ns = 0
        if claimed_bytes <= 0:
            return
        self.last_ns = now_ns
        self.claimed_bytes += claimed_bytes
        if returned_bytes is not None:
            shown = min(returned_bytes, claimed_bytes)
            self.returned_bytes += shown
            self.expected_yield += _LATEST * (shown / claimed_bytes - self.expected_yield)

    def silent(self, now_ns: int) -> None:
        """Note that it was asked and did not answer: it is let be for a while."""
        self.pause_ns = min(2 * self.pause_ns or _PAUSE_NS, _PAUSE_MAX_NS)
        self.silent_until_ns = now_ns + self.pause_ns

    def quoted(self, quote: Quote, now_ns: int) -> Quote:
        """Return a quote that counts for what came of earlier ones."""
        silent = quote.silent
        if now_ns < self.silent_until_ns:
            left = (self.silent_until_ns - now_ns) // NS_PER_MS
            silent = f"it did not answer when it was asked, and is asked again in {left} ms"
        share = self.expected_yield if self.expected_yield >= _LEAST_YIELD else 0.0
        if silent == quote.silent and share == quote.expected_yield:
            return quote
        front = None if quote.front is None or not share else quote.front / share
        return replace(quote, expected_yield=share, silent=silent, front=front)


class HostConsumer:
    """One consumer that a host registered."""

    def __init__(self, said: Registration) -> None:
        # All mutable state.
        self.said = said
        self.expires_ns: int | None = None
        self._saved = UseRate()
        self._hits, self._misses = UseRate(), UseRate()
        self._quote: Quote | None = None
        self._stale_ns: int | None = None

    def update(self, said: Registration, now_ns: int) -> None:
        """Take over what is said of it now, and learn from what was used since."""
        before = self.said
        for learned, was, now in (
            (self._hits, before.hits, said.hits),
            (self._misses, before.misses, said.misses),
            (self._saved, before.saved_ms, said.saved_ms),
        ):
            if now is not None and was is not None:
                # A total that fell began anew: all of it came since.
                learned.used(now_ns, now - was if now >= was else now)
        self.said, self._quote = said, None

    def renewed(self, now_ns: int) -> None:
        """Have its lease begin now."""
        self.expires_ns = None if self.said.lease_ns is None else now_ns + self.said.lease_ns

    def released(self, size_bytes: int) -> None:
        """Note that it gave so much back: it holds less, and its offers shrink from the front."""
        left, offers = size_bytes, list[Offer]()
        for offer in self.said.offers:
            gone = min(left, offer.bytes)
            left -= gone
            if offer.bytes > gone:
                rest = offer.bytes - gone
                cost = offer.cost_ms * rest / offer.bytes
                offers.append(offer if not gone else replace(offer, bytes=rest, cost_ms=cost))
        held = max(0, self.said.held_bytes - size_bytes)
        self.said, self._quote = replace(self.said, held_bytes=held, offers=tuple(offers)), None

    def quote(self, now_ns: int) -> Quote:
        """Return what it offers now, at the price by how often what goes is expected to be needed again.

        It is made when something was said, and after a second: in one, what uses of late are worth falls by 0.1 %.
        """
        quote = self._quote
        if quote is None or (self._stale_ns is not None and now_ns >= self._stale_ns):
            said, (times, because) = self.said, self._times(now_ns)
            holding = Holding(said.held_bytes, said.floor_bytes)
            front = front_of(said.offers, holding, times)
            quote = self._quote = Quote(
                said.consumer_id, said.kind, said.device_id, holding, said.offers,
                times=times, because=because, front=front,
            )  # fmt: skip
            self._stale_ns = None if because is None else now_ns + NS_PER_S
        return quote

    def _times(self, now_ns: int) -> tuple[float, Callable[[], str] | None]:
        """Return how often what goes is expected to be built again within ten minutes, and why.

        1. What its hits saved lately is what its bytes are worth, on the average.
        2. Where that is not told, it is the share of hits among what it was asked for lately.
        3. Without a history it is priced by what it declares.
        """
        said = self.said
        if self._saved.known and said.held_bytes:  # 1
            cost = sum([each.cost_ms for each in said.offers])
            if cost > 0:
                worth = self._saved.expected(now_ns) / said.held_bytes
                times = worth * sum([each.bytes for each in said.offers]) / cost
                return times, lambda: f"its hits save {worth * MIB:.2g} ms/MiB in ten minutes"
        if self._hits.known or self._misses.known:  # 2
            hits, misses = self._hits.weight(now_ns), self._misses.weight(now_ns)
            return hits / (hits + misses + 1), lambda: f"{hits:.1f} hits and {misses:.1f} misses of late"
        return 1.0, None  # 3


class ConsumerTable:
    """Every registered consumer, and the promises of all consumers by their ids."""

    def __init__(self, lock: SureRLock, clock: Clock) -> None:
        self._lock = lock
        self._clock = clock
        # All mutable state.
        self._consumers: dict[str, HostConsumer] = {}
        self._promises: OrderedDict[str, Promises] = OrderedDict()
        self._limits: dict[str, ConsumerLimit] = {}

    def register(self, said: Registration) -> tuple[bool, int | None]:
        """Add a consumer, or take over what is said of it now. Returns whether it is new, and its limit.

        InvalidRequestError where there are too many.
        """
        with self._lock:
            now = self._clock.now_ns()
            found = self._live(now).get(said.consumer_id)
            if found is None:
                if len(self._consumers) >= CONSUMERS_MAX:
                    message = f"{CONSUMERS_MAX} consumers are registered; unregister one, or register several as one"
                    raise InvalidRequestError.at("data.consumer_id", message)
                consumer = self._consumers[said.consumer_id] = HostConsumer(said)
            else:
                consumer = found
                consumer.update(said, now)
            consumer.renewed(now)
            return found is None, self.limit(said.consumer_id)

    def released(self, consumer_id: str, size_bytes: int) -> tuple[int, int | None]:
        """Note that a consumer gave so much back. Returns what it holds then, and its limit. ConsumerNotFoundError."""
        with self._lock:
            consumer = self.get(consumer_id)
            consumer.released(size_bytes)
            consumer.renewed(self._clock.now_ns())
            return consumer.said.held_bytes, self.limit(consumer_id)

    def unregister(self, consumer_id: str) -> bool:
        """Forget a consumer. Returns whether it was known."""
        with self._lock:
            self._limits.pop(consumer_id, None)
            return self._live(self._clock.now_ns()).pop(consumer_id, None) is not None

    def get(self, consumer_id: str) -> HostConsumer:
        """Return a consumer, for who holds the lock. ConsumerNotFoundError."""
        consumer = self._live(self._clock.now_ns()).get(consumer_id)
        if consumer is None:
            message = f"no consumer {consumer_id!r} is registered; memory.register_consumer registers one"
            raise ConsumerNotFoundError(message, consumer_id=consumer_id)
        return consumer

    def held_bytes(self, consumer_id: str) -> int:
        """Return what a consumer holds, as far as it was said. ConsumerNotFoundError."""
        with self._lock:
            return self.get(consumer_id).said.held_bytes

    def device_of(self, consumer_id: str) -> str | None:
        """Return where a consumer holds what it holds; None for one that is not registered."""
        with self._lock:
            consumer = self._live(self._clock.now_ns()).get(consumer_id)
            return None if consumer is None else consumer.said.device_id

    def knows(self, consumer_id: str) -> bool:
        """Tell whether a consumer is registered."""
        with self._lock:
            return consumer_id in self._live(self._clock.now_ns())

    def all(self, device_id: str | None = None) -> tuple[HostConsumer, ...]:
        """Return the registered consumers of a device, or of all, in the order in which they came."""
        with self._lock:
            consumers = self._live(self._clock.now_ns()).values()
            return tuple(each for each in consumers if device_id in {None, each.said.device_id})

    def quotes(self, device_id: str | None = None) -> tuple[Quote, ...]:
        """Return what the registered consumers of a device offer, or of all."""
        with self._lock:
            now, promises, found = self._clock.now_ns(), self._promises, list[Quote]()
            for consumer_id, each in self._live(now).items():
                quote = each.quote(now)
                if device_id is None or quote.device_id == device_id:
                    known = promises.get(consumer_id)
                    found.append(quote if known is None else known.quoted(quote, now))
            return tuple(found)

    # ---- the most that each is to hold ----

    def limit(self, consumer_id: str) -> int | None:
        """Return the most that a consumer is to hold; None for no limit."""
        with self._lock:
            limit = self._limits.get(consumer_id)
            return None if limit is None else limit.limit_bytes

    def lower_limit(self, consumer_id: str, held_bytes: int, asked_bytes: int) -> int:
        """Lower a consumer's limit by what it is asked for, 0 to keep it from growing. Returns it."""
        with self._lock:
            limit = fall(self._limits.get(consumer_id), held_bytes, asked_bytes, self._clock.now_ns())
            self._limits[consumer_id] = limit
            return limit.limit_bytes

    def raise_limit(
        self, consumer_id: str, level: PressureLevel, spare_bytes: int
    ) -> tuple[bool, int | None]:
        """Raise a consumer's limit where it is time to. Returns whether it is another, and the limit."""
        with self._lock:
            before = self._limits.get(consumer_id)
            if before is None:
                return False, None
            after = rise(before, level, spare_bytes, self._clock.now_ns())
            if after is None:
                del self._limits[consumer_id]
                return True, None
            self._limits[consumer_id] = after
            return after.limit_bytes != before.limit_bytes, after.limit_bytes

    # ---- what came of promises ----

    def priced(self, quote: Quote) -> Quote:
        """Return a quote, of whatever consumer, that counts for what came of its earlier promises."""
        with self._lock:
            promises = self._promises.get(quote.consumer_id)
            return quote if promises is None else promises.quoted(quote, self._clock.now_ns())

    def note(self, consumer_id: str, claimed_bytes: int | None, returned_bytes: int | None) -> None:
        """Note what a consumer claimed, None for nothing because it was silent, and what came back of it."""
        with self._lock:
            promises = self._promises.get(consumer_id)
            if promises is None:
                promises = self._promises[consumer_id] = Promises()
                if len(self._promises) > CONSUMERS_MAX:
                    self._promises.popitem(last=False)
            now = self._clock.now_ns()
            if claimed_bytes is None:
                promises.silent(now)
            else:
                promises.kept(claimed_bytes, returned_bytes, now)

    def heard(self, consumer_id: str) -> None:
        """Note that a consumer spoke unasked, or late: it may be asked again at once."""
        with self._lock:
            promises = self._promises.get(consumer_id)
            if promises is not None:
                promises.silent_until_ns = 0

    def status(self, quote: Quote, usage: Usage | None = None) -> ConsumerStatus:
        """Return a consumer, whichever it is, as it is listed; of one of the host's, its usage is what that said."""
        with self._lock:
            now = self._clock.now_ns()
            host = self._consumers.get(quote.consumer_id)
            promises = self._promises.get(quote.consumer_id) or Promises()
            held, last = quote.holding, promises.last_ns
            if host is not None:
                usage = Usage(host.said.hits, host.said.misses, host.said.saved_ms)
            return ConsumerStatus(
                consumer_id=quote.consumer_id,
                kind=quote.kind,
                device_id=quote.device_id,
                held_bytes=held.held_bytes,
                floor_bytes=held.floor_bytes,
                in_use_bytes=held.in_use_bytes,
                limit_bytes=self.limit(quote.consumer_id),
                hits=None if usage is None else usage.hits,
                misses=None if usage is None else usage.misses,
                saved_ms=None if usage is None else usage.saved_ms,
                price_ms_per_mib=_price(quote),
                claimed_bytes=promises.claimed_bytes,
                returned_bytes=promises.returned_bytes,
                last_released_ms_ago=None if last is None else (now - last) // NS_PER_MS,
                overhead_bytes=None if usage is None else usage.overhead_bytes,
            )

    def _live(self, now_ns: int) -> dict[str, HostConsumer]:
        """Return the consumers whose leases last, the others forgotten; the lock is held."""
        ended = [
            each
            for each, one in self._consumers.items()
            if one.expires_ns is not None and one.expires_ns <= now_ns
        ]
        for consumer_id in ended:
            del self._consumers[consumer_id]
            self._limits.pop(consumer_id, None)
        return self._consumers


def _price(quote: Quote) -> float | None:
    """Return what the next MiB costs, as it is told; None where nothing of it can be had."""
    offer = next((each for each in quote.offers if each.bytes > 0), None)
    if offer is None or quote.holding.spare_bytes <= 0 or quote.expected_yield <= 0:
        return None
    return round(price_per_mib(offer.cost_ms * quote.times, offer.bytes) / quote.expected_yield, 6)

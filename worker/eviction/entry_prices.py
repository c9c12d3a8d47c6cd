"""What each entry of a consumer is worth keeping: one pricing, for models, servers, stores and whatever is simulated. Pure.

The price of an entry is the time that building it again takes, by how often it is expected to be used within ten
minutes. That is more than the chance of one use: memory that goes is seldom had back at once, and until then every use
costs. So entries of any consumers can be compared by the byte. How often is learned in two parts:

- *within the consumer*, in its own uses: how soon such entries come back (``reuse_rates``);
- *of the consumer*, in everybody's time: how many uses it has of late, so that demand that moves moves memory.
"""

from collections.abc import Callable, Container, Hashable
from collections.abc import Set as AbstractSet

from worker.core.consumers import Offer
from worker.eviction.reuse_rates import ReuseRates
from worker.eviction.use_rate import HALF_LIFE_NS, UseRate

_LEAST_USES = 0.02
"""Expected of a consumer in ten minutes, however long it was silent: what its entries are worth can be told apart then, too."""

_SAMPLE = 32
"""Entries looked at for an offer: the cheapest of so many at random is among the cheapest few of a hundred."""
_MULTIPLIER, _INCREMENT, _MODULUS = 1103515245, 12345, 2**31


class ExpectedUses:
    """How often each entry of one consumer is expected to be used. Its owner locks. Times are of any one clock."""

    def __init__(self) -> None:
        # All mutable state.
        self._rates = ReuseRates()
        self._all = UseRate()

    def used(self, entry_id: Hashable, now_ns: int) -> None:
        """Note a use of an entry, kept or not. Those used last are remembered, 16,384 of them (some 6 MiB)."""
        self._all.used(now_ns)
        self._rates.used(entry_id, now_ns)

    @property
    def held_bytes(self) -> int:
        """What is remembered takes, about."""
        return self._rates.held_bytes

    def within(self, entry_id: Hashable, now_ns: int, within_ns: int = HALF_LIFE_NS) -> float:
        """Return how many uses of an entry are expected within a time; 1 where there was none: what is not known is dear."""
        return self.at(now_ns, within_ns)(entry_id)

    def at(
        self, now_ns: int, within_ns: int = HALF_LIFE_NS, *, as_learned: bool = False
    ) -> Callable[[Hashable], float]:
        """Return what tells that of any entry, at one moment: it holds until the next use, and is much quicker for many.

        ``as_learned``: who calls ``learn`` now and then has nobody wait for it who only looks.
        """
        within_ns = max(0, within_ns)
        times = self.of_consumer(now_ns, within_ns)
        return self._rates.now(times, 1.0, now_ns, within_ns, as_learned=as_learned)

    def learn(self) -> None:
        """Learn from what was seen, which else is done when somebody looks: it takes up to some milliseconds."""
        self._rates.learn()

    def of_consumer(self, now_ns: int, within_ns: int = HALF_LIFE_NS) -> float:
        """Return how many uses of all its entries together are expected within a time."""
        return self._all.expected(now_ns, within_ns) + _LEAST_USES * within_ns / HALF_LIFE_NS

    @property
    def again(self) -> AbstractSet[int]:
        """The hashes of entries that were used more than once, as far as is known: others are worth what most are."""
        return self._rates.again


class PricedEntries:
    """The entries that one consumer keeps, what each is worth, and what it offers of them. Its owner locks.

    Every use is noted, of what is not kept, too (a miss): coming back is what tells that something should have stayed.
    A use takes some microseconds, an offer looks at 32 entries, or at as many as are needed. Nothing is drawn by chance:
    the same events give the same offers, however often they are looked at.
    """

    def __init__(self) -> None:
        self.held_bytes = 0
        # All mutable state, beside the above.
        self._uses = ExpectedUses()
        self._kept: dict[str, tuple[int, int, float]] = {}
        """Place in ``_order``, bytes and milliseconds of each."""
        self._order: list[str] = []
        self._draw = self._drawn = 12345
        """Where a sample begins, and the one after the next event: who only looks twice is told the same prices."""
        self._all: tuple[int, list[tuple[float, int, float, str]]] | None = None
        """All that is kept, as it was priced at a time since the last event: a plan for more looks at the same moment."""

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self._kept

    def used(self, entry_id: str, now_ns: int) -> None:
        """Note a use of an entry, kept or not."""
        self._change()
        self._uses.used(entry_id, now_ns)

    def add(self, entry_id: str, size_bytes: int, cost_ms: float) -> None:
        """Note that an entry is kept from now on: its bytes, and what building it took. ValueError where it is already."""
        if entry_id in self._kept:
            raise ValueError(f"entry {entry_id!r} is kept already; remove it first")
        self._change()
        self._kept[entry_id] = (len(self._order), size_bytes, cost_ms)
        self._order.append(entry_id)
        self.held_bytes += size_bytes

    def remove(self, entry_id: str) -> None:
        """Note that an entry is no longer kept. KeyError where it was not."""
        place, size_bytes, _ = self._kept.pop(entry_id)
        self._change()
        last = self._order.pop()
        if last != entry_id:
            self._order[place] = last
            self._kept[last] = (place, *self._kept[last][1:])
        self.held_bytes -= size_bytes

    def price_ms(self, entry_id: str, cost_ms: float, now_ns: int) -> float:
        """Return what keeping an entry that takes so long to build saves: what ``cost_ms`` of an offer of it is."""
        return cost_ms * self._uses.within(entry_id, now_ns)

    def offers(self, need_bytes: int, now_ns: int, in_use: Container[str] = ()) -> tuple[Offer, ...]:
        """Return entries that together are enough, or all there are: the cheapest per byte of a sample first.

        An offer's ``tag`` is its entry's id. What is in use is not offered.
        """
        offers, missing = [], need_bytes
        for _, size_bytes, price, entry_id in self._priced(need_bytes, now_ns):
            if missing <= 0:
                break
            if entry_id in in_use:
                continue
            offers.append(Offer(size_bytes, price, "", tag=entry_id))
            missing -= size_bytes
        return tuple(offers)

    def _priced(self, need_bytes: int, now_ns: int) -> list[tuple[float, int, float, str]]:
        """Return a sample of what is kept, the cheapest first: price a byte, bytes, price and id of each."""
        some, kept = self._some(need_bytes), self._kept
        if some is self._order and self._all is not None and self._all[0] == now_ns:
            return self._all[1]
        uses, priced = self._uses.at(now_ns), []
        for entry_id in some:
            _, size_bytes, cost_ms = kept[entry_id]
            price = cost_ms * uses(entry_id)
            priced.append((price / (size_bytes or 1), size_bytes, price, entry_id))
        priced.sort()
        if some is self._order:
            self._all = now_ns, priced
        return priced

    def _change(self) -> None:
        """Note that something happened: what was drawn and priced before does not hold any more."""
        self._draw, self._all = self._drawn, None

    def _some(self, need_bytes: int) -> list[str]:
        """Return a sample of what is kept, of at least twice the need. The same events give the same samples."""
        if len(self._order) <= 2 * _SAMPLE or self.held_bytes <= 2 * need_bytes:
            return self._order
        picked: dict[str, None] = {}
        size, self._drawn = 0, self._draw
        while len(picked) < _SAMPLE or size < 2 * need_bytes:
            if 2 * len(picked) > len(self._order):
                return self._order
            self._drawn = (self._drawn * _MULTIPLIER + _INCREMENT) % _MODULUS
            entry_id = self._order[(self._drawn >> 8) % len(self._order)]
            if entry_id not in picked:
                picked[entry_id] = None
                size += self._kept[entry_id][1]
        return list(picked)

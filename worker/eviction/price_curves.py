"""What consumers offer as curves of price over bytes: steps that only get dearer, merged, and taken from the front. Pure."""

from bisect import bisect_left
from collections.abc import Container, Sequence
from heapq import heappop, heapreplace
from itertools import chain
from math import inf
from typing import NamedTuple

from worker.core.consumers import ENGINE_PREFIX, Offer, Quote


class Step(NamedTuple):
    """A next part of one consumer's offers, never cheaper per byte than the one before it."""

    price: float
    """Milliseconds per byte that is expected back."""
    consumer: int
    """Its index: the earlier goes first at an equal price."""
    place: int
    """In its chain: so steps sort as they are."""
    expected: float
    cost: float
    divisible: bool
    offers: tuple[Offer, ...]


_make = tuple.__new__

NO_BYTES = 1e-6
"""So little is no byte that is missing: it comes of reckoning with shares of bytes."""

Taken = list[tuple[Step, float]]
"""Steps, each with the share of it that is asked for."""


def steps_of(consumer: int, quote: Quote, wanted: int) -> list[Step]:
    """Return a consumer's steps, each as dear as the one before it or dearer, up to what is wanted: 8 and 9 of the plan."""
    left, share, times, reached = quote.holding.spare_bytes, quote.expected_yield, quote.times, 0.0
    steps: list[Step] = []
    for offer in quote.offers:
        size, cost, divisible = offer.bytes, offer.cost_ms * times, offer.divisible
        if size > left:
            if left <= 0 or not divisible:
                break
            offer = part(offer, left)  # noqa: PLW2901 - what is above its floor
            size, cost = left, cost * left / size
        left -= size
        expected = size * share
        if expected <= 0:
            continue
        offers: tuple[Offer, ...] = (offer,)
        while steps and steps[-1].cost * expected > cost * steps[-1].expected:  # 8
            before = steps.pop()
            expected, cost, divisible = expected + before.expected, cost + before.cost, False
            offers = (*before.offers, *offers)
        # As Step(...) makes it, in half the time: there may be thousands.
        steps.append(_make(Step, (cost / expected, consumer, len(steps), expected, cost, divisible, offers)))
        reached += size * share
        if reached >= wanted > 0:
            break
    return steps


class Curves:
    """The steps of many consumers, of which only those are made that a plan looks at."""

    def __init__(
        self,
        quotes: Sequence[Quote],
        device_id: str,
        wanted: int,
        excluded: Container[str] = (),
        *,
        capped: bool = False,
    ) -> None:
        """Take what everybody offers, and where how much is wanted at most; 0 for all that there is.

        What of it may be asked for is what ``release_planner`` has no word against: 1 to 4 of the plan. Below a cap of the
        worker's own (``capped``), that is nothing of what engines keep beside models.
        """
        self._quotes = quotes
        self._wanted = wanted
        # All mutable state: the steps that were made.
        self._made: dict[int, list[Step]] = {}
        # There may be a thousand, and this is most of what a plan does: what can be known before is, and nothing is called.
        asked = [
            (quote.front, consumer)
            for consumer, quote in enumerate(quotes)
            if quote.silent is None
            and quote.device_id == device_id
            and quote.consumer_id not in excluded
            and not (capped and quote.consumer_id.startswith(ENGINE_PREFIX))
        ]
        self.first_prices = firsts = [(front, consumer) for front, consumer in asked if front is not None]
        """What the next byte of each costs, and whose it is, the cheapest first."""
        self.besides = list[int]()
        """Those that may be asked, and count as headroom already: they are on no curve."""
        if len(firsts) < len(asked):
            for front, consumer in asked:
                if quotes[consumer].counted:
                    self.besides.append(consumer)
                elif front is None and (steps := self.steps(consumer)):
                    firsts.append((steps[0].price, consumer))
        firsts.sort()

    def steps(self, consumer: int) -> list[Step]:
        """Return all steps of a consumer that may be asked."""
        steps = self._made.get(consumer)
        if steps is None:
            steps = self._made[consumer] = steps_of(consumer, self._quotes[consumer], self._wanted)
        return steps

    def cheapest_but(self, asked: Container[int]) -> tuple[float, int] | None:
        """Return the lowest price of a consumer that is not among those asked, and its index; None for none."""
        return next((each for each in self.first_prices if each[1] not in asked), None)

    def merged(self) -> list[Step]:
        """Return steps by their price, the cheapest first, until they are enough."""
        if not self._wanted:
            return sorted(chain.from_iterable(self.steps(consumer) for _, consumer in self.first_prices))
        merged: list[Step] = []
        places: dict[int, int] = {}
        following = self.first_prices.copy()  # sorted, so a heap
        reached = 0.0
        while following and int(reached) < self._wanted:
            consumer = following[0][1]
            steps, place = self.steps(consumer), places.get(consumer, 0)
            merged.append(steps[place])
            reached += steps[place].expected
            places[consumer] = place = place + 1
            if place < len(steps):
                heapreplace(following, (steps[place].price, consumer))
            else:
                heappop(following)
        return merged

    def enough_alone(self, least_ms: float) -> tuple[float, Taken]:
        """Return what is taken of the one consumer that has all that is wanted for less, and its cost; nothing for none."""
        best: Taken = []
        for price, consumer in self.first_prices:
            # Its first step is its cheapest, and its first offer goes whole if it can't be divided: it can't cost less than both.
            if price * self._wanted > least_ms:
                break
            quote = self._quotes[consumer]
            first = quote.offers[0]
            if first.cost_ms * quote.times > least_ms and first.bytes and not first.divisible:
                continue
            if (quote.holding.spare_bytes + 1) * quote.expected_yield < self._wanted:
                continue
            steps = self.steps(consumer)
            if sum([step.expected for step in steps]) >= self._wanted:
                taken = take(steps, self._wanted)
                cost = sum([step.cost * share for step, share in taken])
                if cost < least_ms or (best and cost == least_ms and consumer < best[0][0].consumer):
                    least_ms, best = cost, taken
        return least_ms, best


def cost_of(wanted: float, merged: list[Step], reached: list[float], spent: list[float]) -> float:
    """Return what so many bytes of the others cost, the cheapest first; infinity where they have too little."""
    if wanted <= 0:
        return 0.0
    index = bisect_left(reached, wanted)
    if index >= len(reached):
        return inf
    last = merged[index - 1]
    share = (wanted - reached[index - 1]) / last.expected if last.divisible else 1.0
    return spent[index - 1] + last.cost * share


def take(steps: Sequence[Step], wanted: float) -> Taken:
    """Take steps from the front until so much is expected back, then spare what is not needed: 11 of the plan."""
    taken: Taken = []
    missing = wanted
    for step in steps:
        if missing <= NO_BYTES:
            break
        share = min(1.0, missing / step.expected) if step.divisible else 1.0
        taken.append((step, share))
        missing -= step.expected * share
    over, kept = -missing, set[int]()
    for index in range(len(taken) - 1, -1, -1):
        step, share = taken[index]
        given = step.expected * share
        if given <= over and step.consumer not in kept:
            over -= given
            del taken[index]
        else:
            kept.add(step.consumer)  # those before it stay, too: offers are taken from the front
    return taken


def part(offer: Offer, size_bytes: int) -> Offer:
    """Return the front of a divisible offer, at its share of the cost."""
    cost = offer.cost_ms * size_bytes / offer.bytes
    return Offer(size_bytes, cost, offer.reason, offer.divisible, offer.tag)

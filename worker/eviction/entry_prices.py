"""What each entry of a consumer is worth keeping, learned from how that consumer's entries were used. Pure.

An entry's worth is the time that rebuilding it takes, by how often it is expected to be used again a unit of time: so
entries of any consumers can be compared by worth a byte. How often is learned in two parts:

- *Within the consumer*, in its own uses: of entries that were used about so often, what share came back after how long.
  An entry is worth the best ratio of the chance that it comes back within some time to the time that it is kept for
  that (the Gittins index). So what was used once is worth little where such entries seldom come back, and of a loop
  that is longer than the memory, what comes next is kept.
- *Of the consumer*, in everybody's time: how many uses it has of late, so that demand that moves moves memory.

What was evicted is remembered for a while, since its coming back is what tells that it should have stayed.
"""

import math
from itertools import islice
from typing import NamedTuple

from worker.core.consumers import Offer

KNOWN = 16_384
"""Entries remembered, those used last: about 2 MiB."""

HALF_LIFE_USES = 3000
"""Uses of the consumer after which what was seen counts half."""

HALF_LIFE = 2000.0
"""Units of time after which a use counts half in the consumer's rate: a lull of some hundreds is outlasted."""
_LEAST_RATE = 1e-5

_CLASSES = 14
"""Of entries: those used once, and the others by the octave of their mean time from one use to the next."""
_LATEST_GAP = 0.25
"""What the last such time counts for in the mean, at least: entries change."""
_BINS_PER_OCTAVE = 2
_SHARE = 0.25
"""Come back in each doubling of its square root of age, as long as nothing was seen: uses cluster."""
_SHARE_WEIGHT, _POOL_WEIGHT = 1.0, 4.0
"""Observations that this assumption counts for, and all classes together for each of them."""

_LEARN_EVERY = 64
_SAMPLE = 32
"""Entries looked at for an offer: the cheapest of so many at random is among the cheapest few of a hundred."""
_MULTIPLIER, _INCREMENT, _MODULUS = 1103515245, 12345, 2**31


class _Entry(NamedTuple):
    uses: int
    last: int
    """Time of the last use."""
    gap: float
    """Mean octave of the time from one use to the next."""

    @property
    def kind(self) -> int:
        """Its class."""
        return min(1 + int(self.gap), _CLASSES - 1) if self.uses > 1 else 0


_FORGOTTEN = _Entry(1, 0, 0.0)


class ReuseRates:
    """How soon entries of one consumer are used again, by how often they were. Time is in uses of the consumer."""

    def __init__(self) -> None:
        # All mutable state.
        self._tick = 0
        self._known: dict[str, _Entry] = {}
        """That used longest ago first."""
        self._back: list[list[float]] = [[] for _ in range(_CLASSES)]
        """How many came back, by class and age."""
        self._lost: list[list[float]] = [[] for _ in range(_CLASSES)]
        """How many were forgotten before they did."""
        self._rates: list[list[float]] = []
        self._learned = 0

    def used(self, entry_id: str) -> None:
        """Note a use."""
        self._tick += 1
        entry = self._known.pop(entry_id, None)
        if entry is None:
            if len(self._known) >= KNOWN:
                gone = self._known.pop(next(iter(self._known)))
                _count(self._lost[gone.kind], _bin(self._tick - gone.last))
            self._known[entry_id] = _Entry(1, self._tick, 0.0)
        else:
            age = self._tick - entry.last
            _count(self._back[entry.kind], _bin(age))
            weight = max(_LATEST_GAP, 1 / entry.uses)
            gap = entry.gap + weight * (math.log2(age + 1) - entry.gap)
            self._known[entry_id] = _Entry(entry.uses + 1, self._tick, gap)
        often = max(_LEARN_EVERY, len(self._known) // 16)
        if not self._rates or self._tick - self._learned >= min(often, 8 + self._tick // 4):
            self._learn()

    def rate(self, entry_id: str) -> float:
        """Return how often it is expected to be used, per use of the consumer."""
        if not self._rates:
            return 1.0
        entry = self._known.get(entry_id, _FORGOTTEN)
        rates = self._rates[entry.kind]
        return rates[min(_bin(self._tick - entry.last), len(rates) - 1)]

    def _learn(self) -> None:
        """Put what was seen together, and have it count less from here on."""
        bins = _bin(self._tick + 1) + 2
        waiting = [[0.0] * bins for _ in range(_CLASSES)]
        for entry in self._known.values():
            waiting[entry.kind][_bin(self._tick - entry.last)] += 1
        decay = 0.5 ** ((self._tick - self._learned) / HALF_LIFE_USES)
        for counts in (*self._back, *self._lost):
            counts.extend([0.0] * (bins - len(counts)))
            counts[:] = [decay * each for each in counts]
        for counts, lost in zip(waiting, self._lost, strict=True):
            counts[:] = map(float.__add__, counts, lost)
        everyone = _shares(_sums(self._back), _sums(waiting), [_SHARE] * bins, _SHARE_WEIGHT)
        self._rates = [
            _best_rates(_shares(back, counts, everyone, _POOL_WEIGHT))
            for back, counts in zip(self._back, waiting, strict=True)
        ]
        self._learned = self._tick


class PricedEntries:
    """The entries that one consumer keeps, and what it offers of them. Its owner locks.

    Times are in any unit, the same for all consumers that are compared, such as uses of all of them together.
    """

    def __init__(self) -> None:
        self.held_bytes = 0
        # All mutable state, beside the above.
        self._rates = ReuseRates()
        self._activity = 0.0
        """Uses, decayed by the half-life up to ``_at``."""
        self._at = 0.0
        self._kept: dict[str, tuple[int, int, float]] = {}
        """Place in ``_order``, bytes and milliseconds of each."""
        self._order: list[str] = []
        self._draw = 12345

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self._kept

    def used(self, entry_id: str, now: float) -> None:
        """Note a use of an entry, kept or not."""
        self._activity = self._active(now) + 1
        self._at = now
        self._rates.used(entry_id)

    def add(self, entry_id: str, size_bytes: int, cost_ms: float) -> None:
        """Note that an entry is kept from now on."""
        self._kept[entry_id] = (len(self._order), size_bytes, cost_ms)
        self._order.append(entry_id)
        self.held_bytes += size_bytes

    def remove(self, entry_id: str) -> None:
        """Note that an entry is no longer kept. KeyError where it was not."""
        place, size_bytes, _ = self._kept.pop(entry_id)
        last = self._order.pop()
        if last != entry_id:
            self._order[place] = last
            self._kept[last] = (place, *self._kept[last][1:])
        self.held_bytes -= size_bytes

    def worth_ms(self, entry_id: str, cost_ms: float, now: float) -> float:
        """Return what keeping an entry saves a unit of time."""
        return cost_ms * self._rates.rate(entry_id) * self._uses_a_unit(now)

    def offers(self, need_bytes: int, now: float) -> tuple[Offer, ...]:
        """Return entries that together are enough, or all there are: the cheapest per byte of a sample first."""
        uses, priced = self._uses_a_unit(now), []
        for entry_id in self._some(need_bytes):
            _, size_bytes, cost_ms = self._kept[entry_id]
            worth = cost_ms * self._rates.rate(entry_id) * uses
            priced.append((worth / size_bytes, size_bytes, worth, entry_id))
        priced.sort()
        offers, missing = [], need_bytes
        for _, size_bytes, worth, entry_id in priced:
            if missing <= 0:
                break
            offers.append(Offer(size_bytes, worth, "", tag=entry_id))
            missing -= size_bytes
        return tuple(offers)

    def _some(self, need_bytes: int) -> list[str]:
        """Return a sample of what is kept, of at least twice the need. The same events give the same samples."""
        if len(self._order) <= 2 * _SAMPLE or self.held_bytes <= 2 * need_bytes:
            return self._order
        picked: dict[str, None] = {}
        size = 0
        while len(picked) < _SAMPLE or size < 2 * need_bytes:
            if 2 * len(picked) > len(self._order):
                return self._order
            self._draw = (self._draw * _MULTIPLIER + _INCREMENT) % _MODULUS
            entry_id = self._order[(self._draw >> 8) % len(self._order)]
            if entry_id not in picked:
                picked[entry_id] = None
                size += self._kept[entry_id][1]
        return list(picked)

    def _active(self, now: float) -> float:
        return self._activity * math.exp2(-max(0.0, now - self._at) / HALF_LIFE)

    def _uses_a_unit(self, now: float) -> float:
        return self._active(now) * math.log(2) / HALF_LIFE + _LEAST_RATE


def _bin(age: int) -> int:
    return int(_BINS_PER_OCTAVE * math.log2(age)) if age > 1 else 0


def _edge(place: int) -> float:
    return 2.0 ** (place / _BINS_PER_OCTAVE) if place else 0.0


def _count(counts: list[float], place: int) -> None:
    counts.extend([0.0] * (place + 1 - len(counts)))
    counts[place] += 1


def _sums(rows: list[list[float]]) -> list[float]:
    return [sum(column) for column in zip(*rows, strict=True)]


def _shares(back: list[float], waiting: list[float], assumed: list[float], weight: float) -> list[float]:
    """Return the share of those that reach each age that come back there; who waits there still, counts half."""
    shares, reached = [0.0] * len(back), 0.0
    for place in range(len(back) - 1, -1, -1):
        reached += back[place] + waiting[place]
        at_risk = reached - waiting[place] / 2
        shares[place] = (back[place] + weight * assumed[place]) / (at_risk + weight)
    return shares


def _best_rates(shares: list[float]) -> list[float]:
    """Return for each age the best ratio, over all times to come, of the chance to come back to the time kept."""
    rates = []
    for place in range(len(shares)):
        left, kept, best = 1.0, 0.0, 0.0
        for later, share in enumerate(islice(shares, place, None), place):
            width = (_edge(later + 1) - _edge(later)) * (0.5 if later == place else 1.0)
            kept += left * width * (1 - share / 2)
            left *= 1 - share
            best = max(best, (1 - left) / kept)
        rates.append(best)
    return rates

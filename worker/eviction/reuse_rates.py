"""How soon entries of one consumer are used again, learned from how all of them were. Pure.

Of entries that were used about so often: what share came back after how long. An entry is worth the best ratio of the
chance that it comes back within some time to the time that it is kept for that (the Gittins index). So what was used
once is worth little where such entries seldom come back, and of a loop that is longer than the memory, what comes next
is kept. What was evicted is remembered for a while, since its coming back is what tells that it should have stayed.

That ratio is of the time until the next use alone, and highest just after one. Where something is used in bursts it would be far
too much for ten minutes, and a large entry would take the place of many that are used as steadily as ever, only to lose it again
once its burst is over. So no entry is expected to be used much more often than it was of late.
"""

import math
from collections.abc import Callable, Hashable
from itertools import islice

from worker.eviction.use_rate import HALF_LIFE_NS

KNOWN = 16_384
"""Entries remembered, those used last: about 6 MiB, whatever their names are."""
_KNOWN_BYTES, _AGAIN_BYTES = 368, 96
"""Of one, measured with 16,384 of them; and besides of one that was used more than once: its place in a set, and its number."""

HALF_LIFE_USES = 3000
"""Uses of the consumer after which what was seen counts half."""

_CLASSES = 14
"""Of entries: those used once, and the others by the octave of their mean time from one use to the next."""
_LATEST_GAP = 0.25
"""What the last such time counts for in the mean, at least: entries change."""
_FEW_USES = 1 / _LATEST_GAP
_BINS_PER_OCTAVE = 2
_SHARE = 0.25
"""Come back in each doubling of its square root of age, as long as nothing was seen: uses cluster."""
_SHARE_WEIGHT, _POOL_WEIGHT = 1.0, 4.0
"""Observations that this assumption counts for, and all classes together for each of them."""

_LEARN_EVERY = 64


_Entry = tuple[int, int, float, int, float, int, int]
"""How many uses, the time of the last one, the mean octave of the time from one to the next, and the class; then the uses of late,
each counting half after ten minutes, and when the first and the last one were, in nanoseconds. Plain: each use makes one."""

_FORGOTTEN: _Entry = (1, 0, 0.0, 0, 1.0, 0, 0)

MORE_USES = 12
"""So many more than of late an entry may be expected to be used in the same time: a burst that just begins has few yet. Of 1, 3, 6,
12 and 24, on ten kinds of traces, three seeds each (100 to 102 of ``benchmarks/consumers`` and of the first three of
``consumer_files``): 0.915, 0.910, 0.908, 0.904 and 0.903 of the best partition in hindsight, and of the last two the better one for
``help_desk``, the only kind that comes near to 1."""
_WINDOW_NS = HALF_LIFE_NS / math.log(2)


class ReuseRates:
    """How soon entries of one consumer are used again, by how often they were. Time is in uses of the consumer."""

    def __init__(self) -> None:
        # All mutable state.
        self._tick = 0
        self._known: dict[int, _Entry] = {}
        """By their names' hashes, for names may be long; that used longest ago first."""
        self.again: set[int] = set()
        """The hashes of those that were used more than once. To be looked at alone."""
        self._back: list[list[float]] = [[] for _ in range(_CLASSES)]
        """How many came back, by class and age."""
        self._lost: list[list[float]] = [[] for _ in range(_CLASSES)]
        """How many were forgotten before they did."""
        self._rates: list[list[float]] = []
        self._learned = 0
        self._stale = False
        """Whether enough was seen since then to learn from."""

    @property
    def held_bytes(self) -> int:
        """What the entries that are known take, about: the tuple, the numbers in it, and its place in the table."""
        return _KNOWN_BYTES * len(self._known) + _AGAIN_BYTES * len(self.again)

    def used(self, entry_id: Hashable, now_ns: int) -> None:
        """Note a use."""
        known, name = self._known, hash(entry_id)
        tick = self._tick = self._tick + 1
        entry = known.pop(name, None)
        if entry is None:
            if len(known) >= KNOWN:
                oldest = next(iter(known))
                _, last, _, kind, *_ = known.pop(oldest)
                self.again.discard(oldest)
                _count(self._lost[kind], _bin(tick - last))
            known[name] = (1, tick, 0.0, 0, 1.0, now_ns, now_ns)
        else:
            uses, last, gap, kind, _, first_ns, _ = entry
            if uses == 1:
                self.again.add(name)
            age = tick - last
            _count(self._back[kind], _bin(age))
            weight = 1 / uses if uses < _FEW_USES else _LATEST_GAP
            gap += weight * (math.log2(age + 1) - gap)
            kind = min(1 + int(gap), _CLASSES - 1)
            known[name] = (uses + 1, tick, gap, kind, 1 + _decayed(entry, now_ns), first_ns, now_ns)
        if not self._stale:
            often = max(_LEARN_EVERY, len(known) // 16)
            self._stale = not self._rates or tick - self._learned >= min(often, 8 + tick // 4)

    def now(
        self, times: float, unknown: float, now_ns: int, within_ns: int, *, as_learned: bool = False
    ) -> Callable[[Hashable], float]:
        """Return what tells how often an entry is expected to be used within a time, of ``times`` uses of all; ``unknown`` where it never was.

        It holds until the next use, and takes half a microsecond an entry: a plan looks at thousands. ``as_learned``: by what was
        learned last, if anything was.
        """
        if not (as_learned and self._rates):
            self.learn()  # only now: it takes much longer than to note a use
        known, tick, rates = self._known, self._tick, self._rates
        if not rates:
            return lambda _: unknown
        most = MORE_USES * within_ns / _WINDOW_NS
        last, table, forgets = len(rates[0]) - 1, len(_BINS), len(known) >= KNOWN

        def told(entry_id: Hashable) -> float:
            entry = known.get(hash(entry_id))
            if entry is None:
                if not forgets:
                    return unknown
                entry = _FORGOTTEN
            age = tick - entry[1]
            place = _BINS[age] if age < table else _bin(age)
            expected = times * rates[entry[3]][min(last, place)]
            known_ns = now_ns - entry[5]
            if known_ns > 0 and expected > most:  # what is expected seldom is below any bound
                seen_ns = _WINDOW_NS * (1 - math.exp(-known_ns / _WINDOW_NS))
                return min(expected, (_decayed(entry, now_ns) + MORE_USES) * within_ns / seen_ns)
            return expected

        return told

    def learn(self) -> None:
        """Put what was seen together, where that is enough, and have it count less from here on: about a millisecond."""
        if not self._stale:
            return
        bins = _bin(self._tick + 1) + 2
        waiting = [[0.0] * bins for _ in range(_CLASSES)]
        place, edge = bins - 1, _edge(bins - 1)
        tick = self._tick
        for entry in self._known.values():  # their ages only fall
            while tick - entry[1] < edge:
                place -= 1
                edge = _edge(place)
            waiting[entry[3]][place] += 1
        decay = 0.5 ** ((self._tick - self._learned) / HALF_LIFE_USES)
        for counts in (*self._back, *self._lost):
            counts.extend([0.0] * (bins - len(counts)))
            counts[:] = [decay * each for each in counts]
        for counts, lost in zip(waiting, self._lost, strict=True):
            counts[:] = map(float.__add__, counts, lost)
        everyone = _shares(_sums(self._back), _sums(waiting), [_SHARE] * bins, _SHARE_WEIGHT)
        unseen = _best_rates(everyone)
        self._rates = [
            _best_rates(_shares(back, counts, everyone, _POOL_WEIGHT)) if any(back) or any(counts) else unseen
            for back, counts in zip(self._back, waiting, strict=True)
        ]
        self._learned = self._tick
        self._stale = False


def _decayed(entry: _Entry, now_ns: int) -> float:
    return entry[4] * math.exp(min(0, entry[6] - now_ns) / _WINDOW_NS)


def _bin(age: int) -> int:
    return (age**_BINS_PER_OCTAVE).bit_length() - 1 if age > 1 else 0


_BINS = bytes(map(_bin, range(KNOWN)))
"""Of the ages that most have."""


def _edge(place: int) -> float:
    return 2.0 ** (place / _BINS_PER_OCTAVE) if place else 0.0


def _count(counts: list[float], place: int) -> None:
    if place >= len(counts):
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
    rows = [(1 - share, (_edge(at + 1) - _edge(at)) * (1 - share / 2)) for at, share in enumerate(shares)]
    for place in range(len(shares)):
        left, kept, best = 1.0, -rows[place][1] / 2, 0.0
        for stays, width in islice(rows, place, None):
            kept += left * width
            left *= stays
            if 1 - left > best * kept:
                best = (1 - left) / kept
            elif best * kept >= 1:  # no chance is above 1, and the time only grows
                break
        rates.append(best)
    return rates

"""How often one thing is expected to be used, learned from when it was. Pure; two numbers each."""

import math

HALF_LIFE_NS = 600 * 10**9
"""A use counts half after the ten minutes for which a model stays by default; and for as long prices look ahead."""


class UseRate:
    """Uses of one thing, each counting half after ``HALF_LIFE_NS``. Its owner locks."""

    __slots__ = ("_at_ns", "_weight")

    def __init__(self) -> None:
        # All mutable state: the decayed number of uses, and at which time it is that.
        self._weight = 0.0
        self._at_ns = 0

    @property
    def known(self) -> bool:
        """Whether there was any use."""
        return self._weight > 0

    def used(self, now_ns: int, count: float = 1.0) -> None:
        """Note uses, or anything else that comes in amounts over time."""
        # As ``weight``, without the call: this is on the way of every get of a store.
        self._weight = self._weight * math.exp2(min(0, self._at_ns - now_ns) / HALF_LIFE_NS) + count
        self._at_ns = now_ns

    def weight(self, now_ns: int) -> float:
        """Return the decayed number of uses."""
        return self._weight * math.exp2(-max(0, now_ns - self._at_ns) / HALF_LIFE_NS)

    def expected(self, now_ns: int, within_ns: int = HALF_LIFE_NS) -> float:
        """Return how many uses are expected within a time, if it goes on as of late."""
        return self.weight(now_ns) * math.log(2) * max(0, within_ns) / HALF_LIFE_NS

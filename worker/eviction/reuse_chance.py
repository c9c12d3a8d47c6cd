"""How likely something is used again within a time, learned from when it was used. Pure; a few floats each."""

import math

HALF_LIFE_NS = 600 * 10**9
"""A use counts half after the ten minutes for which a model stays by default."""


class ReuseChance:
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
        self._weight = self.weight(now_ns) + count
        self._at_ns = now_ns

    def weight(self, now_ns: int) -> float:
        """Return the decayed number of uses."""
        elapsed = max(0, now_ns - self._at_ns)
        decay: float = 0.5 ** (elapsed / HALF_LIFE_NS)
        return self._weight * decay

    def expected(self, now_ns: int, within_ns: int) -> float:
        """Return how many uses are expected within a time, if it goes on as of late."""
        return self.weight(now_ns) * math.log(2) * max(0, within_ns) / HALF_LIFE_NS

    def chance(self, now_ns: int, within_ns: int) -> float:
        """Return the chance of at least one use within a time; 1 where there was none yet: what is not known is dear."""
        if not self.known:
            return 1.0
        return 1.0 - math.exp(-self.expected(now_ns, within_ns))

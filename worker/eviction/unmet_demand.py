"""What was refused memory lately, planned for together: one large thing that goes makes room for many small ones. Pure.

A small entry is never worth what a large model is, however much more it is worth per byte; and what such an entry leaves of
the model's bytes is worth as much to those that were refused before it.
"""

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

from worker.eviction.release_planner import ReleasePlan
from worker.eviction.use_rate import HALF_LIFE_NS

REMEMBERED = 512
"""The latest so many that were refused."""

Key = tuple[str, str]
"""A consumer's id, and an entry's."""

_MARGIN = 1.7
"""What they must be worth together, as a multiple of what goes for them: their coming back is foretold, and giving them memory
that was given away again costs both. Of 1, 1.3 and 1.7 it was the best on ``loops`` 101 to 103, ``bursts`` 101 and ``loops``
202 of ``benchmarks/consumers``."""


class UnmetDemand:
    """Entries that were built and not kept, since what would have gone for each was worth more. Its owner locks."""

    def __init__(self) -> None:
        # All mutable state: bytes, worth and time of each that was refused, the latest last.
        self._refused: dict[Key, tuple[int, float, int]] = {}

    def refuse(self, key: Key, size_bytes: int, worth_ms: float, now_ns: int) -> None:
        """Note that an entry was not kept, and what it was worth just after its use: the next one builds it anyway."""
        self._refused.pop(key, None)
        self._refused[key] = (size_bytes, worth_ms, now_ns)
        if len(self._refused) > REMEMBERED:
            del self._refused[next(iter(self._refused))]

    def forget(self, key: Key) -> None:
        """Note that an entry is kept now."""
        self._refused.pop(key, None)

    def plan(
        self,
        missing_bytes: int,
        worth_ms: float,
        first: ReleasePlan,
        plan: Callable[[int], ReleasePlan],
        now_ns: int,
    ) -> ReleasePlan | None:
        """Return a plan that is worth its cost for an entry and those that were refused lately; None where none is.

        ``first`` is the plan for what the entry alone lacks, which costs more than it is worth.
          1. What was refused within the last ten minutes counts, the dearest per byte first, as far as it fits into what
             a plan frees beyond the entry.
          2. Where that is not worth the plan's cost, one for twice as much is looked at, until it would be all.
        """
        since = now_ns - HALF_LIFE_NS
        self._refused = {key: each for key, each in self._refused.items() if each[2] >= since}
        waiting = sorted(
            ((worth / size, size, worth) for size, worth, _ in self._refused.values()), reverse=True
        )
        sizes = list(accumulate(size for _, size, _ in waiting))
        worths = [0.0, *accumulate(worth for _, _, worth in waiting)]
        found, wanted = first, 0
        while (
            found.meetable and worth_ms + worths[-1] >= _MARGIN * found.cost_ms
        ):  # what is larger costs no less
            left = sum(each.expected_bytes for each in found.releases) - missing_bytes
            if worth_ms + worths[bisect_right(sizes, left)] >= _MARGIN * found.cost_ms:  # 1
                return found
            if wanted >= sizes[-1]:
                break
            wanted = min(max(sizes[0], 2 * left), sizes[-1])  # 2
            found = plan(missing_bytes + wanted)
        return None

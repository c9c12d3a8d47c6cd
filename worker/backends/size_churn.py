"""Which sizes come and go: a free is real unless its size was asked for again soon after such a free before."""

from collections import OrderedDict
from collections.abc import Callable

KEEP_NS = 2_000_000_000
"""What is kept for reuse and not reused for this long is given up."""

_SIZES_REMEMBERED = 64


class SizeChurn:
    """Remembers what was freed lately. Not thread-safe."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        # All mutable state: when each size was last freed, and those that churn.
        self._freed_ns: OrderedDict[int, int] = OrderedDict()
        self._churning: set[int] = set()

    def asked(self, size: int) -> None:
        """Note that a size is asked for."""
        freed = self._freed_ns.get(size)
        if freed is not None and self._now_ns() - freed <= KEEP_NS:
            self._churning.add(size)

    def freed(self, size: int) -> bool:
        """Note that a size is freed. Tells whether it is worth keeping."""
        self._freed_ns[size] = self._now_ns()
        self._freed_ns.move_to_end(size)
        while len(self._freed_ns) > _SIZES_REMEMBERED:
            self._churning.discard(self._freed_ns.popitem(last=False)[0])
        return size in self._churning

    def settle(self, size: int) -> None:
        """Forget that a size churns: what was kept for it was not reused."""
        self._churning.discard(size)

    def settle_all(self) -> None:
        """Forget that any size churns."""
        self._churning.clear()

"""The least that something took, window by window, over all of its time in bounded memory. Its owner locks."""

from worker.core.clock import NS_PER_S
from worker.core.records import Floor

WINDOW_NS = 10 * NS_PER_S
CAPACITY = 32


class Floors:
    """At most 32 windows. When they are full, each two become one of twice the length."""

    def __init__(self) -> None:
        # All mutable state.
        self._width_ns = WINDOW_NS
        self._floors: list[Floor] = []

    def add(self, now_ns: int, size: int) -> None:
        """Enter what it takes now."""
        floors = self._floors
        if floors and now_ns - floors[-1].from_ns < self._width_ns:
            if size < floors[-1].bytes:
                floors[-1] = Floor(floors[-1].from_ns, size)
            return
        if len(floors) == CAPACITY:
            floors[:] = [
                Floor(one.from_ns, min(one.bytes, other.bytes))
                for one, other in zip(floors[::2], floors[1::2], strict=True)
            ]
            self._width_ns *= 2
        floors.append(Floor(now_ns, size))

    def closed(self) -> tuple[Floor, ...]:
        """Return the windows that are over: the present one has not seen its floor yet."""
        return tuple(self._floors[:-1])

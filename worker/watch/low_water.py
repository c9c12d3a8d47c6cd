"""The least that something took, window by window, over all of its time in bounded memory. Its owner locks."""

from worker.core.clock import NS_PER_S
from worker.core.records import LowWaterMark

WINDOW_NS = 10 * NS_PER_S
CAPACITY = 32


class LowWaterMarks:
    """At most 32 windows. When they are full, each two become one of twice the length."""

    def __init__(self) -> None:
        # All mutable state.
        self._width_ns = WINDOW_NS
        self._marks: list[LowWaterMark] = []

    def add(self, now_ns: int, size: int) -> None:
        """Add what it takes now."""
        marks = self._marks
        if marks and now_ns - marks[-1].from_ns < self._width_ns:
            if size < marks[-1].bytes:
                marks[-1] = LowWaterMark(marks[-1].from_ns, size)
            return
        if len(marks) == CAPACITY:
            marks[:] = [
                LowWaterMark(one.from_ns, min(one.bytes, other.bytes))
                for one, other in zip(marks[::2], marks[1::2], strict=True)
            ]
            self._width_ns *= 2
        marks.append(LowWaterMark(now_ns, size))

    def closed(self) -> tuple[LowWaterMark, ...]:
        """Return the windows that are over: the present one has not seen its least yet."""
        return tuple(self._marks[:-1])

"""In which operation a process grows: the one whose own growth, added up, keeps rising as well.

Where the process grew is all that its figures tell: what one operation keeps of memory that was free in the process
already shows in the next one that has to get more.
"""

from collections.abc import Mapping

from protocol.record import Record
from worker.policy.growth import Growth, growth
from worker.watch.low_water import LowWaterMarks

_LEAST_SHARE = 0.5
"""An operation that gained less than half of what the process did is not what it grows by."""


class LeakingOperation(Record):
    """An operation at whose ends the process had grown, again and again: by how much, in sum."""

    name: str
    grown_bytes: int


class OperationGrowth:
    """What each operation's ends added up to, over time. Its owner locks."""

    def __init__(self) -> None:
        # All mutable state.
        self._began_ns: int | None = None
        self._marks: dict[str, LowWaterMarks] = {}

    def add(self, now_ns: int, grown: Mapping[str, int]) -> None:
        """Add what the operations have gained by now since the start, by name."""
        if self._began_ns is None:
            self._began_ns = now_ns
        for name, size in grown.items():
            marks = self._marks.get(name)
            if marks is None:
                marks = self._marks[name] = LowWaterMarks()
                marks.add(self._began_ns, 0)  # until then it had gained nothing
            marks.add(now_ns, size)

    def behind(self, risen: Growth) -> LeakingOperation | None:
        """Return the operation that gained the most of how the process rose; None where none has gained its half."""
        found = None
        for name, marks in self._marks.items():
            mine = growth(marks.closed())
            if mine is None or mine.grown_bytes < _LEAST_SHARE * risen.grown_bytes:
                continue
            if found is None or mine.grown_bytes > found.grown_bytes:
                found = LeakingOperation(name, mine.grown_bytes)
        return found

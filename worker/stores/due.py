"""What ends when: hashes by the time at which they may end, in rows that are sorted as they come. Its owner locks."""

from array import array
from bisect import bisect_left


class _Row:
    """Times that only grow, each followed by a hash; what is before ``head`` is gone."""

    __slots__ = ("head", "values")

    def __init__(self) -> None:
        self.values = array("Q")
        self.head = 0

    @property
    def first(self) -> int:
        return self.values[self.head]


class Due:
    """Times of entries: most have one lifetime, and so come in order, 16 bytes each. Others begin more rows (patience sorting)."""

    def __init__(self) -> None:
        # All mutable state: the rows, and their last times below zero, so that those are sorted.
        self._rows: list[_Row] = []
        self._lasts: list[int] = []
        self.next_ns: int | None = None
        """The earliest; None for none."""

    def add(self, name: int, at_ns: int) -> None:
        """Add a hash."""
        at_ns = max(0, at_ns)
        place = bisect_left(self._lasts, -at_ns)
        if place == len(self._rows):
            self._rows.append(_Row())
            self._lasts.append(0)
        self._lasts[place] = -at_ns
        self._rows[place].values.extend((at_ns, name))
        if self.next_ns is None or at_ns < self.next_ns:
            self.next_ns = at_ns

    def pop(self, now_ns: int) -> list[int]:
        """Return the hashes whose time has come, and forget them."""
        found: list[int] = []
        if self.next_ns is None or self.next_ns > now_ns:
            return found
        for row in self._rows:
            values, at = row.values, row.head
            while at < len(values) and values[at] <= now_ns:
                found.append(values[at + 1])
                at += 2
            row.head = at
            if 2 * at > len(values):
                del values[:at]
                row.head = 0
        left = [(row, last) for row, last in zip(self._rows, self._lasts, strict=True) if row.values]
        self._rows, self._lasts = [row for row, _ in left], [last for _, last in left]
        self.next_ns = min((row.first for row in self._rows), default=None)
        return found

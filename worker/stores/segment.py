"""One map with records of entries, one after the other; in huge pages where that takes little more, and the system does that."""

from array import array
from collections.abc import Hashable, Iterator

from worker.stores.entry import STATE_AT
from worker.stores.maps import PAGE_BYTES, PUNCHES, anonymous, collapse, punch

SEGMENT_BYTES = 2 * 2**20
"""Of the smallest, and of each part of a larger one: a huge page."""
LARGEST_BYTES = (4 if PUNCHES else 1) * SEGMENT_BYTES
"""One of 8 MiB is given back in 25 us, of which its pages alone take 22, and four of 2 MiB in 43, beside Python's part of each. Windows
has no part of a map back, and promises all of it from the beginning."""
OFFSET_BITS = 23
"""Of a place, as one is below a segment's size: the others are its segment's number, enough for all that are ever made."""
OFFSETS = 2**OFFSET_BITS - 1
_FULL_SHARE = 16
"""A segment is full where no more than one part in so many is left of it."""
_MOST_SPARE = 4
"""Where no more of a huge page is left, its part may be put into one."""

_TELLING = 4
"""Entries that tell a segment's price: they lie together because it is about the same."""

Telling = tuple[int, float, int, int]
"""A record's hash, what making its entry took, what is given back with it, and its store."""
Band = Hashable
"""Which records lie together; None for those that are never offered."""

_SMALL, _STAYS_SMALL, _HUGE = range(3)
"""How a part of a segment lies: in small pages, in small ones for good (some were freed, or the system had no huge one), in a huge page."""


class Segment:
    """A map with records, one after the other."""

    __slots__ = (
        "alive",
        "band",
        "count",
        "given",
        "loose",
        "number",
        "offsets",
        "only",
        "parts",
        "punched",
        "records_in",
        "size",
        "spare",
        "telling",
        "told_bytes",
        "told_ms",
        "told_names",
        "used",
        "view",
    )

    def __init__(self, number: int, size: int, band: Band) -> None:
        self.view = anonymous(size, "a store")
        self.parts = bytearray(-(-size // SEGMENT_BYTES))
        """How each lies. Single pages of a huge one are not given back."""
        self.records_in = [0] * len(self.parts)
        """Of each, how many records have some of it."""
        self.number = number
        self.size = size
        self.band = band
        self.spare = 0
        """What its huge pages take beyond what was written."""
        self.used = 0
        """Up to here it was written, and so takes memory."""
        self.punched = 0
        """But for so many bytes, which went back."""
        self.loose: list[tuple[int, int]] = []
        """Pages that were freed, and are still here: from where to where."""
        self.offsets = array("I" if size <= LARGEST_BYTES else "Q")
        """Of all records that were ever written here."""
        self.telling: list[Telling] = []
        """Of a few records, from all parts of it: they are known where as many are there as were ever written."""
        self.told_names: list[int] = []
        self.told_bytes = 0
        self.told_ms = 0.0
        """Their hashes, and together what is given back with them, and what making them took."""
        self.count = self.alive = self.given = 0
        """Records that are there, their bytes, and what their stores count as given back when they go."""
        self.only = 0
        """The store of all its records, if nothing else is known of any; 0 where there are others."""

    @property
    def held(self) -> int:
        """Bytes that take memory."""
        return self.used - self.punched + self.spare

    @property
    def gap_bytes(self) -> int:
        """Of these: what was freed."""
        return self.used - self.punched - self.alive

    @property
    def rest(self) -> int:
        """Bytes that may be written still."""
        return self.size - self.used

    def place(self, offset: int) -> int:
        """Return the place of a record."""
        return self.number << OFFSET_BITS | offset

    def write(self, telling: Telling, size: int) -> int:
        """Note a record that is written at its end, of which this is known. Returns where."""
        begin = self.used
        self.offsets.append(begin)
        if begin * _TELLING >= len(self.telling) * self.size:
            self.telling.append(telling)
            self.told_names.append(telling[0])
            self.told_ms += telling[1]
            self.told_bytes += telling[2]
        self.used += size
        for part in _parts(begin, size):
            self.records_in[part] += 1
        return begin

    def records(self) -> Iterator[int]:
        """Return where the records are that are there."""
        view = self.view
        return (offset for offset in self.offsets if view[offset + STATE_AT])

    @property
    def is_full(self) -> bool:
        """Whether hardly anything is missing in it."""
        return self.rest * _FULL_SHARE <= self.size

    @property
    def huge(self) -> bool:
        """Whether any of it is in huge pages."""
        return _HUGE in self.parts

    def complete(self, most_spare: int) -> None:
        """Have all parts in huge pages that are written to their ends, or where that takes little more, and not more than is said."""
        for part in range(self.used // SEGMENT_BYTES):
            self._enlarge(part)
        rest = -self.used % SEGMENT_BYTES
        if rest and rest <= min(most_spare, SEGMENT_BYTES // _MOST_SPARE):
            self._enlarge(self.used // SEGMENT_BYTES)

    def begin_huge(self) -> None:
        """Have the part that is written next in a huge page, if the system has one."""
        self._enlarge(self.used // SEGMENT_BYTES)

    def _enlarge(self, part: int) -> None:
        begin, end = part * SEGMENT_BYTES, (part + 1) * SEGMENT_BYTES
        if end <= self.size <= LARGEST_BYTES and self.parts[part] == _SMALL:
            if self.used <= begin:
                self.view[begin] = 0  # of what has no page at all none is made
            self.parts[part] = _HUGE if collapse(self.view, begin, SEGMENT_BYTES) else _STAYS_SMALL

    def count_spare(self) -> int:
        """Note what its huge pages take beyond what was written. Returns how much more that is than before."""
        part, before = self.used // SEGMENT_BYTES, self.spare
        is_huge = part < len(self.parts) and self.parts[part] == _HUGE
        self.spare = (part + 1) * SEGMENT_BYTES - self.used if is_huge else 0
        return self.spare - before

    def punch(self) -> int:
        """Give back the pages that were freed, those that lie together at once. Returns how many bytes."""
        given = begin = end = 0
        for first, last in sorted(self.loose):
            if first != end:
                if begin < end:
                    punch(self.view, begin, end)
                begin = first
            end = last
            given += last - first
        punch(self.view, begin, end)
        self.loose.clear()
        self.punched += given
        return given

    def leave(self, begin: int, size: int) -> None:
        """Note that a record went: what of it can be given back is, by ``punch``: whole pages, huge ones that are empty."""
        for part in _parts(begin, size):
            self.records_in[part] -= 1
            first, last = part * SEGMENT_BYTES, (part + 1) * SEGMENT_BYTES
            if self.parts[part] != _HUGE:
                first = max(first, -(-begin // PAGE_BYTES) * PAGE_BYTES)
                last = min(last, (begin + size) // PAGE_BYTES * PAGE_BYTES)
            elif self.records_in[part] or self.used < last:
                continue
            if PUNCHES and first < last:
                self.parts[part] = max(self.parts[part], _STAYS_SMALL)
                self.loose.append((first, last))

    def end_of_part(self, offset: int) -> int:
        """Return where the part ends in which a record begins."""
        return (offset // SEGMENT_BYTES + 1) * SEGMENT_BYTES


def _parts(begin: int, size: int) -> range:
    """Return the parts that a record has some of."""
    return range(begin // SEGMENT_BYTES, (begin + size - 1) // SEGMENT_BYTES + 1)

"""One map with records of entries, one after the other; a huge page where that takes little more, and the system does that."""

from array import array
from collections.abc import Hashable, Iterator

from worker.stores.entry import STATE_AT
from worker.stores.maps import PAGE_BYTES, PUNCHES, anonymous, collapse, punch

SEGMENT_BYTES = 2 * 2**20
OFFSET_BITS = 21
"""Of a place, as one is below a segment's size: the others are its segment's number, enough for all that are ever made."""
OFFSETS = 2**OFFSET_BITS - 1
_FULL_SHARE = 16
"""A segment is full where no more than one part in so many is left of it."""
_MOST_SPARE = 4
"""One that is not, but has no more than so great a part left, may be put into a huge page."""

_TELLING = 4
"""Entries that tell a segment's price: they lie together because it is about the same."""

Telling = tuple[int, float, int, int]
"""A record's hash, what making its entry took, what is given back with it, and its store."""
Band = Hashable
"""Which records lie together; None for those that are never offered."""


class Segment:
    """A map with records, one after the other."""

    __slots__ = (
        "alive",
        "band",
        "count",
        "given",
        "huge",
        "loose",
        "number",
        "offsets",
        "only",
        "punched",
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
        self.huge = False
        """Whether single pages of it are not given back: they would be parts of a huge one."""
        self.number = number
        self.size = size
        self.band = band
        self.spare = 0
        """What its huge page takes beyond what was written."""
        self.used = 0
        """Up to here it was written, and so takes memory."""
        self.punched = 0
        """But for so many bytes, which went back."""
        self.loose: list[tuple[int, int]] = []
        """Pages that were freed, and are still here: from where to where."""
        self.offsets = array("I" if size <= SEGMENT_BYTES else "Q")
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

    def write(self, telling: Telling) -> int:
        """Note a record that is written at its end, of which this is known. Returns where."""
        begin = self.used
        self.offsets.append(begin)
        if begin * _TELLING >= len(self.telling) * self.size:
            self.telling.append(telling)
            self.told_names.append(telling[0])
            self.told_ms += telling[1]
            self.told_bytes += telling[2]
        return begin

    def records(self) -> Iterator[int]:
        """Return where the records are that are there."""
        view = self.view
        return (offset for offset in self.offsets if view[offset + STATE_AT])

    @property
    def is_full(self) -> bool:
        """Whether hardly anything is missing in it."""
        return self.rest * _FULL_SHARE <= self.size

    def enlarge(self) -> int:
        """Have it in a huge page, if the system has one. Returns the bytes that this takes beyond what is written."""
        if not self.used:
            self.view[0] = 0  # of a map that has no page at all none is made
        self.huge = collapse(self.view)
        if self.huge:
            self.spare = self.rest
        return self.spare

    def finish(self, most_spare: int) -> int:
        """Write no more, and have it in a huge page where that takes little, and not more than is said. Returns what it takes more."""
        small = self.size == SEGMENT_BYTES and not (self.huge or self.punched or self.loose)
        return self.enlarge() if small and self.rest <= min(most_spare, self.size // _MOST_SPARE) else 0

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

    def loosen(self, begin: int, size: int) -> bool:
        """Have the whole pages of a record that went be given back by ``punch``. Returns whether there are any."""
        if PUNCHES and size >= PAGE_BYTES and not self.huge:
            first, last = -(-begin // PAGE_BYTES) * PAGE_BYTES, (begin + size) // PAGE_BYTES * PAGE_BYTES
            if first < last:
                self.loose.append((first, last))
                return True
        return False

"""Entries' records in anonymous maps of 2 MiB: what is freed is back at the system, with all that is known of it.

Objects that are freed into a heap leave its pages where they are. Here what is likely to go together lies together, in
*bands*: a segment goes at once when it is chosen, and its keys are found in it. Where single records go, their whole pages
are given back one by one where the system takes that (Linux), and where gaps are many, what is left beside them moves.
Its owner locks.
"""

from array import array
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from typing import Any, Protocol

from worker.plugins import OutOfMemoryError
from worker.stores.entry import (
    ALONE,
    COLD,
    GONE,
    HEAD,
    HEAD_BYTES,
    STATE_AT,
    USED,
    USED_AT,
    WARM,
    Entry,
    entry_at,
    sizes,
)
from worker.stores.maps import PAGE_BYTES, PUNCHES, anonymous, collapse, punch

SEGMENT_BYTES = 2 * 2**20
_OFFSET_BITS = 48
"""Of a place: the others are its segment's number."""
_OFFSETS = 2**_OFFSET_BITS - 1
_SPARE_SHARE = 16
"""A segment that is full but for one part in so many is put into a huge page, which takes that, too."""
_OWNER = 9
"""Of a head: its store."""
_DEAD_SHARE = 4
"""Gaps are closed when they take more than one part in so many of what is alive."""
_TIDY_SHARE = 64
"""And then until they take less than one part in so many."""
_SPARSE_SHARE = 8
"""Records move when less than one part in so many of their addresses is in use: a process has no more than 65,530 maps."""

Head = tuple[Any, ...]
"""Of a record, unpacked."""
Band = Hashable
"""Which records lie together; None for those that are never offered."""
OWN_ORDER = "own order"
"""Of those that their store offers one by one, in an order of its own."""


class Owner(Protocol):
    """Whose records are in segments."""

    def moved(self, name: int, place: int, to: int) -> None:
        """Note that the record of a hash lies elsewhere from now on."""
        ...


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
        "punched",
        "size",
        "spare",
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
        self.count = self.alive = self.given = 0
        """Records that are there, their bytes, and what their stores count as given back when they go."""

    @property
    def held(self) -> int:
        """Bytes that take memory."""
        return self.used - self.punched + self.spare

    @property
    def gap_bytes(self) -> int:
        """Of these: what was freed."""
        return self.used - self.punched - self.alive

    def place(self, offset: int) -> int:
        """Return the place of a record."""
        return self.number << _OFFSET_BITS | offset

    def records(self) -> Iterator[int]:
        """Return where the records are that are there."""
        view = self.view
        return (offset for offset in self.offsets if view[offset + STATE_AT])


class SegmentMemory:
    """Records of any size; one that is larger than a segment has a map of its own."""

    def __init__(self) -> None:
        # All mutable state.
        self.segments: dict[int, Segment] = {}
        self._last = 0
        self._filling: dict[Band, Segment] = {}
        self._topping: dict[Band, Segment] = {}
        """The one before, which takes what is small enough still: so nearly all are full enough for a huge page."""
        self._loose: set[Segment] = set()
        """Segments with pages that were freed and are still there."""
        self.owners: dict[int, Owner] = {}
        self._owners = 0
        self.count = 0
        """Records that are there."""
        self.alive_bytes = 0
        self.held_bytes = 0
        """What the maps take: what is alive, the gaps, and what is spare."""
        self.spare_bytes = 0
        self.given_bytes = 0
        """What is counted as given back when all goes that is ever offered."""

    def enter(self, owner: Owner) -> int:
        """Return a number for a store, by which its records know it."""
        self._owners += 1
        self.owners[self._owners] = owner
        return self._owners

    def leave(self, number: int) -> None:
        """Forget a store, which has no records any more."""
        self.owners.pop(number, None)

    def put(self, entry: Entry, data: bytes | bytearray | None, band: Band, *, alone: bool = False) -> None:
        """Write an entry's record, with its content or without, beside others of a band. It says where it is from now on.

        ``alone`` is whether it is all there is of it. OutOfMemoryError, and nothing is kept, where the system refuses a map.
        """
        entry.state = COLD if data is None else ALONE if alone else WARM
        head = entry.head()
        size = len(head) if data is None else len(head) + len(data)
        try:
            segment = self._with_room(size, band)
        except OutOfMemoryError:
            found = self._any_with_room(size) if data is None else None
            if found is None:
                raise
            segment = found
        begin = segment.used
        middle = begin + len(head)
        segment.view[begin:middle] = head
        if data:
            segment.view[middle : begin + size] = data
        entry.place = self._take(segment, size, entry.given_bytes)

    def head(self, place: int) -> Head:
        """Return a record's head, unpacked."""
        return HEAD.unpack_from(self.segments[place >> _OFFSET_BITS].view, place & _OFFSETS)

    def entry(self, place: int) -> Entry:
        """Return the entry of a record."""
        view, begin = self.segments[place >> _OFFSET_BITS].view, place & _OFFSETS
        head = HEAD.unpack_from(view, begin)
        begin += HEAD_BYTES
        return entry_at(head, view[begin : begin + head[11] + head[10]], place)

    def key(self, place: int) -> bytes:
        """Return the key of a record, as it is kept."""
        view, begin = self.segments[place >> _OFFSET_BITS].view, (place & _OFFSETS) + HEAD_BYTES
        return view[begin : begin + int.from_bytes(view[begin - 4 : begin - 2], "little")]

    def is_of(self, key: bytes, place: int) -> bool:
        """Tell whether a record is of a key."""
        view, begin = self.segments[place >> _OFFSET_BITS].view, (place & _OFFSETS) + HEAD_BYTES
        size = len(key)
        return view[begin : begin + size] == key and view[begin - 4] + 256 * view[begin - 3] == size

    def is_offered(self, place: int) -> bool:
        """Tell whether a record lies among those that are offered."""
        return self.segments[place >> _OFFSET_BITS].band is not None

    def used(self, place: int, head: Head, now_ns: int) -> bytes:
        """Write a use of a record, whose end stays, and return a copy of its content, which is there."""
        view, begin = self.segments[place >> _OFFSET_BITS].view, place & _OFFSETS
        USED.pack_into(view, begin + USED_AT, now_ns, head[4])
        begin += HEAD_BYTES + head[10] + head[11]
        return view[begin : begin + head[7]]

    def content(self, entry: Entry) -> bytes:
        """Return a copy of an entry's content, which is there."""
        begin = (entry.place & _OFFSETS) + HEAD_BYTES + len(entry.key_data) + len(entry.tags_data)
        return self.segments[entry.place >> _OFFSET_BITS].view[begin : begin + entry.content_bytes]

    def note_use(self, entry: Entry) -> None:
        """Write an entry's last use and end."""
        view = self.segments[entry.place >> _OFFSET_BITS].view
        USED.pack_into(view, (entry.place & _OFFSETS) + USED_AT, entry.used_ns, entry.expires_ns)

    def free(self, entry: Entry) -> None:
        """Give a record up. A segment goes with the last of it; gaps are closed by ``tidy``."""
        segment, begin = self.segments[entry.place >> _OFFSET_BITS], entry.place & _OFFSETS
        size = entry.record_bytes
        segment.view[begin + STATE_AT] = GONE
        self._leave(segment, size, entry.given_bytes)
        if not segment.count:
            self.drop(segment)
        else:
            self._loosen(segment, begin, size)

    def drop(self, segment: Segment) -> None:
        """Give up a whole segment, and all that is still in it."""
        del self.segments[segment.number]
        self._loose.discard(segment)
        self._fill_no_more(segment)
        self.held_bytes -= segment.held
        self.spare_bytes -= segment.spare
        if segment.count:
            self._count(segment, -segment.count, -segment.alive, -segment.given)
        segment.view.close()

    def tidy(self) -> None:
        """Close gaps where they take more than their share; call it after what frees. Where memory is short some are left."""
        with suppress(OutOfMemoryError):
            self._punch()
            if self._gap_bytes > max(SEGMENT_BYTES, self.alive_bytes // _DEAD_SHARE):
                self._squeeze()
            if len(self.segments) * SEGMENT_BYTES > SEGMENT_BYTES + _SPARSE_SHARE * self.alive_bytes:
                for segment in [
                    each for each in self.segments.values() if each.alive < each.size // _SPARSE_SHARE
                ]:
                    if segment not in {self._filling.get(segment.band), self._topping.get(segment.band)}:
                        self.move_out(segment)

    def squeeze(self) -> None:
        """Close nearly all gaps: what was freed is to be back at the system now. Where memory is short some are left."""
        with suppress(OutOfMemoryError):
            self._punch()
            self._squeeze()

    def move_out(self, segment: Segment, band_of: Callable[[Head], Band] | None = None) -> None:
        """Move what is in a segment, beside others of the bands that heads are of, or of its own, and drop it."""
        self._fill_no_more(segment)
        for offset in list(segment.records()):
            head = HEAD.unpack_from(segment.view, offset)
            self.move(segment, offset, segment.band if band_of is None else band_of(head))
        self.drop(segment)

    def move(self, segment: Segment, offset: int, band: Band) -> None:
        """Move a record, beside others of a band. OutOfMemoryError, and it is where it was."""
        self._fill_no_more(segment)
        head = HEAD.unpack_from(segment.view, offset)
        size, given = sizes(head)
        other = self._with_room(size, band)
        other.view[other.used : other.used + size] = segment.view[offset : offset + size]
        to = self._take(other, size, given)
        segment.view[offset + STATE_AT] = GONE
        self._leave(segment, size, given)
        self.owners[head[_OWNER]].moved(head[0], segment.place(offset), to)

    # ---- inside ----

    @property
    def _gap_bytes(self) -> int:
        return self.held_bytes - self.spare_bytes - self.alive_bytes

    def _squeeze(self) -> None:
        gaps = sorted((each for each in self.segments.values() if each.gap_bytes), key=_gaps, reverse=True)
        for segment in gaps:
            if self._gap_bytes <= self.alive_bytes // _TIDY_SHARE:
                return
            self.move_out(segment)

    def _punch(self) -> None:
        """Give back the pages that were freed, those that lie together at once."""
        for segment in self._loose:
            begin = end = 0
            for first, last in sorted(segment.loose):
                if first != end:
                    if begin < end:
                        punch(segment.view, begin, end)
                    begin = first
                end = last
                segment.punched += last - first
                self.held_bytes -= last - first
            punch(segment.view, begin, end)
            segment.loose.clear()
        self._loose.clear()

    def _loosen(self, segment: Segment, begin: int, size: int) -> None:
        """Have the whole pages of a record that went be given back."""
        if PUNCHES and size >= PAGE_BYTES and not segment.huge:
            first, last = -(-begin // PAGE_BYTES) * PAGE_BYTES, (begin + size) // PAGE_BYTES * PAGE_BYTES
            if first < last:
                segment.loose.append((first, last))
                self._loose.add(segment)

    def _with_room(self, size: int, band: Band) -> Segment:
        if size > SEGMENT_BYTES:
            return self._add(size, band)
        topped, filled = self._topping.get(band), self._filling.get(band)
        for segment in (topped, filled):
            if segment is not None and segment.used + size <= segment.size:
                return segment
        segment = self._filling[band] = self._add(SEGMENT_BYTES, band)
        if filled is not None:
            self._topping[band] = filled
        if topped is not None:
            self._finish(topped)
        return segment

    def _any_with_room(self, size: int) -> Segment | None:
        """Return where there is room for a record that is offered nowhere, whatever lies there."""
        return next((each for each in self._filling.values() if each.used + size <= each.size), None)

    def _finish(self, segment: Segment) -> None:
        """Have a segment that is full in a huge page, if hardly anything is missing in it."""
        spare = segment.size - segment.used
        if not segment.punched and not segment.loose and spare * _SPARE_SHARE <= segment.size:
            segment.huge = collapse(segment.view)
            if segment.huge:
                segment.spare = spare
                self.spare_bytes += spare
                self.held_bytes += spare

    def _add(self, size: int, band: Band) -> Segment:
        segment = Segment(self._last + 1, size, band)
        self._last += 1
        self.segments[segment.number] = segment
        return segment

    def _take(self, segment: Segment, size: int, given: int) -> int:
        """Count what was written at a segment's end. Returns its place."""
        begin = segment.used
        segment.offsets.append(begin)
        segment.used += size
        self.held_bytes += size
        self._count(segment, 1, size, given)
        return segment.number << _OFFSET_BITS | begin

    def _leave(self, segment: Segment, size: int, given: int) -> None:
        self._count(segment, -1, -size, -given)

    def _count(self, segment: Segment, count: int, size: int, given: int) -> None:
        segment.count += count
        self.count += count
        segment.alive += size
        self.alive_bytes += size
        if segment.band is not None:
            segment.given += given
            self.given_bytes += given

    def _fill_no_more(self, segment: Segment) -> None:
        for those in (self._filling, self._topping):
            if segment is those.get(segment.band):
                del those[segment.band]


def _gaps(segment: Segment) -> float:
    return segment.gap_bytes / segment.held

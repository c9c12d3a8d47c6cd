"""Entries' records in anonymous maps of 2 to 8 MiB: what is freed is back at the system, with all that is known of it.

Objects that are freed into a heap leave its pages where they are. Here what is likely to go together lies together, in
*bands*: a segment goes at once when it is chosen, and its keys are found in it. Where single records go, their whole pages
are given back one by one where the system takes that (Linux), and where gaps are many, what is left beside them moves.
Its owner locks.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from worker.plugins import OutOfMemoryError
from worker.stores.entry import (
    ALONE,
    COLD,
    GONE,
    HEAD,
    HEAD_BYTES,
    LARGE_BYTES,
    STATE_AT,
    USED,
    USED_AT,
    WARM,
    Entry,
    entry_at,
    sizes,
)
from worker.stores.filling import Filling
from worker.stores.segment import LARGEST_BYTES, OFFSET_BITS, OFFSETS, SEGMENT_BYTES, Band, Segment, Telling

_OWNER = 9
"""Of a head: its store."""
_DEAD_SHARE = 4
"""Gaps are closed when they take more than one part in so many of what is alive."""
_TIDY_SHARE = 64
"""And then until they take less than one part in so many."""
_SEGMENTS = 16
"""A segment is larger than the smallest only where all together hold at least so many of its size."""
_SPARSE_SHARE = 8
"""Records move when less than one part in so many of their addresses is in use: a process has no more than 65,530 maps."""
_SPARE_SHARE = 16
"""What huge pages take that nothing was written to is one part in so many of what was written, at most: where it leaves room for that,
a segment is in a huge page from its beginning on, and is written in a third of the time."""

Head = tuple[Any, ...]
"""Of a record, unpacked."""
OWN_ORDER = "own order"
"""Of those that their store offers one by one, in an order of its own."""


class Owner(Protocol):
    """Whose records are in segments."""

    def moved(self, name: int, place: int, to: int) -> None:
        """Note that the record of a hash lies elsewhere from now on."""
        ...


class SegmentMemory:
    """Records of any size; one that is larger than a segment has a map of its own."""

    def __init__(self) -> None:
        # All mutable state.
        self.segments: dict[int, Segment] = {}
        self._last = 0
        self._filling = Filling()
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
            found = self._filling.any_with_room(size) if data is None else None  # it is offered nowhere
            if found is None:
                raise
            segment = found
        begin = segment.used
        middle = begin + len(head)
        segment.view[begin:middle] = head
        if data:
            segment.view[middle : begin + size] = data
        only = entry.store if alone and not entry.tags_data and len(data or b"") <= LARGE_BYTES else 0
        telling = entry.hash, entry.cost_ms, entry.given_bytes, entry.store
        entry.place = self._take(segment, size, telling, only)

    def rewrite(
        self, entry: Entry, data: bytes | bytearray | None, band: Band, *, alone: bool = False
    ) -> None:
        """Write an entry's record anew, as ``put``, in place of the one that it has. OutOfMemoryError, and all is as before."""
        before, state = entry.place, entry.state
        try:
            self.put(entry, data, band, alone=alone)
        except BaseException:
            entry.state = state
            raise
        after, written = entry.place, entry.state
        entry.place, entry.state = before, state
        self.free(entry)
        entry.place, entry.state = after, written

    def head(self, place: int) -> Head:
        """Return a record's head, unpacked."""
        return HEAD.unpack_from(self.segments[place >> OFFSET_BITS].view, place & OFFSETS)

    def entry(self, place: int) -> Entry:
        """Return the entry of a record."""
        view, begin = self.segments[place >> OFFSET_BITS].view, place & OFFSETS
        head = HEAD.unpack_from(view, begin)
        begin += HEAD_BYTES
        return entry_at(head, view[begin : begin + head[11] + head[10]], place)

    def key(self, place: int) -> bytes:
        """Return the key of a record, as it is kept."""
        view, begin = self.segments[place >> OFFSET_BITS].view, (place & OFFSETS) + HEAD_BYTES
        return view[begin : begin + int.from_bytes(view[begin - 4 : begin - 2], "little")]

    def is_of(self, key: bytes, place: int) -> bool:
        """Tell whether there is a record, and it is of a key."""
        try:
            view, begin = self.segments[place >> OFFSET_BITS].view, (place & OFFSETS) + HEAD_BYTES
        except KeyError:  # it went with its segment
            return False
        size = len(key)
        return view[begin : begin + size] == key and view[begin - 4] + 256 * view[begin - 3] == size

    def is_there(self, place: int) -> bool:
        """Tell whether a record did not go with its segment."""
        return place >> OFFSET_BITS in self.segments

    def is_offered(self, place: int) -> bool:
        """Tell whether a record lies among those that are offered."""
        return self.segments[place >> OFFSET_BITS].band is not None

    def used(self, place: int, head: Head, now_ns: int) -> bytes:
        """Write a use of a record, whose end stays, and return a copy of its content, which is there."""
        view, begin = self.segments[place >> OFFSET_BITS].view, place & OFFSETS
        USED.pack_into(view, begin + USED_AT, now_ns, head[4])
        begin += HEAD_BYTES + head[10] + head[11]
        return view[begin : begin + head[7]]

    def content(self, entry: Entry) -> bytes:
        """Return a copy of an entry's content, which is there."""
        begin = (entry.place & OFFSETS) + HEAD_BYTES + len(entry.key_data) + len(entry.tags_data)
        return self.segments[entry.place >> OFFSET_BITS].view[begin : begin + entry.content_bytes]

    def note_use(self, entry: Entry) -> None:
        """Write an entry's last use and end."""
        view = self.segments[entry.place >> OFFSET_BITS].view
        USED.pack_into(view, (entry.place & OFFSETS) + USED_AT, entry.used_ns, entry.expires_ns)

    def free(self, entry: Entry) -> None:
        """Give a record up. A segment goes with the last of it; gaps are closed by ``tidy``."""
        segment, begin = self.segments[entry.place >> OFFSET_BITS], entry.place & OFFSETS
        size = entry.record_bytes
        segment.view[begin + STATE_AT] = GONE
        self._leave(segment, begin, size, entry.given_bytes)
        if not segment.count:
            self.drop(segment)

    def drop(self, segment: Segment) -> None:
        """Give up a whole segment, and all that is still in it."""
        del self.segments[segment.number]
        self._loose.discard(segment)
        self._filling.leave(segment)
        self.held_bytes -= segment.held
        self.spare_bytes -= segment.spare
        if segment.count:
            self._count(segment, -segment.count, -segment.alive, -segment.given)
        segment.view.close()

    def tidy(self) -> None:
        """Close gaps where they take more than their share; call it after what frees. Where memory is short some are left."""
        with suppress(OutOfMemoryError):
            self._punch()
            self._give_spare()
            if self._gap_bytes > max(SEGMENT_BYTES, self.alive_bytes // _DEAD_SHARE):
                self._squeeze()
            if len(self.segments) * SEGMENT_BYTES > SEGMENT_BYTES + _SPARSE_SHARE * self.alive_bytes:
                for segment in [
                    each for each in self.segments.values() if each.alive < each.size // _SPARSE_SHARE
                ]:
                    if segment not in self._filling:
                        self.move_out(segment)

    def squeeze(self) -> None:
        """Close nearly all gaps: what was freed is to be back at the system now. Where memory is short some are left."""
        with suppress(OutOfMemoryError):
            self._punch()
            self._give_spare()
            self._squeeze()

    def move_out(self, segment: Segment, band_of: Callable[[Head], Band] | None = None) -> None:
        """Move what is in a segment, beside others of the bands that heads are of, or of its own, and drop it."""
        self._filling.leave(segment)
        for offset in list(segment.records()):
            head = HEAD.unpack_from(segment.view, offset)
            self.move(segment, offset, segment.band if band_of is None else band_of(head))
        self.drop(segment)

    def move(self, segment: Segment, offset: int, band: Band) -> None:
        """Move a record, beside others of a band. OutOfMemoryError, and it is where it was."""
        self._filling.leave(segment)
        head = HEAD.unpack_from(segment.view, offset)
        size, given = sizes(head)
        other = self._with_room(size, band)
        other.view[other.used : other.used + size] = segment.view[offset : offset + size]
        plain = head[13] == ALONE and not head[10] and head[7] <= LARGE_BYTES
        telling = head[0], head[6], given, head[_OWNER]
        to = self._take(other, size, telling, head[_OWNER] if plain else 0)
        segment.view[offset + STATE_AT] = GONE
        self._leave(segment, offset, size, given)
        self.owners[head[_OWNER]].moved(head[0], segment.place(offset), to)

    # ---- inside ----

    @property
    def _more_spare(self) -> int:
        """What huge pages may take still that nothing was written to."""
        return (self.held_bytes - self.spare_bytes) // _SPARE_SHARE - self.spare_bytes

    def _count_spare(self, size: int) -> None:
        self.spare_bytes += size
        self.held_bytes += size

    @property
    def _gap_bytes(self) -> int:
        return self.held_bytes - self.spare_bytes - self.alive_bytes

    def _squeeze(self) -> None:
        if self._gap_bytes <= self.alive_bytes // _TIDY_SHARE:
            return
        gaps = sorted((each for each in self.segments.values() if each.gap_bytes), key=_gaps, reverse=True)
        for segment in gaps:
            if self._gap_bytes <= self.alive_bytes // _TIDY_SHARE:
                return
            self.move_out(segment)

    def _give_spare(self) -> None:
        """Have less spare where most of what was written is gone."""
        if self._more_spare < -SEGMENT_BYTES:
            for segment in sorted(self.segments.values(), key=_spare, reverse=True):
                if self._more_spare >= -SEGMENT_BYTES:
                    return
                self.move_out(segment)

    def _punch(self) -> None:
        """Give back the pages that were freed."""
        for segment in self._loose:
            self.held_bytes -= segment.punch()
        self._loose.clear()

    def _with_room(self, size: int, band: Band) -> Segment:
        if size > SEGMENT_BYTES:
            return self._add(size, band)
        segment = self._filling.with_room(size, band)
        if segment is None:
            segment = self._add(self._next_bytes(), band)
            self._begin_part(segment)
            for each in self._filling.begin(segment):
                self._complete(each)
        return segment

    def _next_bytes(self) -> int:
        """Return the size of the next segment: the larger all are together, the larger, so that there are not too many."""
        size = SEGMENT_BYTES
        while size < LARGEST_BYTES and 2 * size * _SEGMENTS <= self.held_bytes:
            size *= 2
        return size

    def _begin_part(self, segment: Segment) -> None:
        """Have what is written next in a huge page, where there is spare enough: the rest is for those that are full."""
        if self._more_spare >= 2 * SEGMENT_BYTES:
            segment.begin_huge()
            self._count_spare(segment.count_spare())

    def _complete(self, segment: Segment) -> None:
        segment.complete(self._more_spare)
        self._count_spare(segment.count_spare())

    def _add(self, size: int, band: Band) -> Segment:
        segment = Segment(self._last + 1, size, band)
        self._last += 1
        self.segments[segment.number] = segment
        return segment

    def _take(self, segment: Segment, size: int, telling: Telling, only: int) -> int:
        """Count what was written at a segment's end, of a store if nothing else is known of it. Returns its place."""
        was_full = segment.is_full
        begin = segment.write(telling, size)
        if segment.only != only:
            segment.only = 0 if begin else only
        self.held_bytes += size
        self._count_spare(segment.count_spare())
        self._count(segment, 1, size, telling[2])
        if segment.is_full:
            if not was_full:  # now, for it may be the last that comes for long
                self._complete(segment)
        elif begin // SEGMENT_BYTES < segment.used // SEGMENT_BYTES:
            self._complete(segment)
            self._begin_part(segment)
        return segment.number << OFFSET_BITS | begin

    def _leave(self, segment: Segment, begin: int, size: int, given: int) -> None:
        self._count(segment, -1, -size, -given)
        segment.leave(begin, size)
        if segment.loose:
            self._loose.add(segment)

    def _count(self, segment: Segment, count: int, size: int, given: int) -> None:
        segment.count += count
        self.count += count
        segment.alive += size
        self.alive_bytes += size
        if segment.band is not None:
            segment.given += given
            self.given_bytes += given


def _gaps(segment: Segment) -> float:
    return segment.gap_bytes / segment.held


def _spare(segment: Segment) -> int:
    return segment.spare

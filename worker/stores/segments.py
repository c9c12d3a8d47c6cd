"""Bytes in anonymous maps of 2 MiB: what is freed is back at the system.

Objects that are freed into a heap leave its pages where they are. Here an entry's whole pages lie in segments of pages,
and are given back one by one where the system takes single ones (Linux); the rest of it, less than a page, lies in
segments of such ends. What is likely to go together is put together: a segment whose last part goes is unmapped, and
where many have gaps, what is left of them moves. Its owner locks.
"""

import mmap
import sys
from contextlib import suppress

from worker.plugins import OutOfMemoryError

SEGMENT_BYTES = 2 * 2**20
PAGE_BYTES = mmap.PAGESIZE

_DEAD_SHARE = 4
"""Gaps are closed when they take more than one part in so many of what is alive."""
_TIDY_SHARE = 64
"""And then until they take less than one part in so many."""
_SPARSE_SHARE = 8
"""Pages move when less than one part in so many of their addresses is in use: a process has no more than 65,530 maps."""
_PUNCHES = sys.platform == "linux"


class Ref:
    """Where an entry's bytes are; they may move."""

    __slots__ = ("end", "length", "offset", "segment")

    def __init__(self, segment: "_Segment", offset: int, length: int) -> None:
        self.segment = segment
        self.offset = offset
        self.length = length
        self.end: Ref | None = None
        """What of it is less than a page; None where all of it is here."""


class _Segment:
    __slots__ = ("alive", "loose", "place", "punched", "refs", "size", "used", "view")

    def __init__(self, size: int, place: "_Place") -> None:
        self.view = _map(size)
        self.size = size
        self.place = place
        self.used = 0
        """Up to here it was written, and so takes memory."""
        self.punched = 0
        """But for so many bytes, which went back."""
        self.loose: list[tuple[int, int]] = []
        """Pages that were freed, and are still here."""
        self.alive = 0
        self.refs: set[Ref] = set()

    @property
    def held(self) -> int:
        """Bytes that take memory."""
        return self.used - self.punched


_Place = tuple[bool, int]
"""Whether a segment is of whole pages, or of ends; and of which group."""


class SegmentMemory:
    """Entries of any size; one with more pages than a segment has a map of its own."""

    def __init__(self) -> None:
        # All mutable state.
        self._segments: set[_Segment] = set()
        self._filling: dict[_Place, _Segment] = {}
        self._loose: set[_Segment] = set()
        """Segments with pages that were freed and are still there."""
        self.alive_bytes = 0
        self.held_bytes = 0
        """What the maps take: what is alive, and the gaps."""

    def put(self, data: bytes | bytearray, group: int = 0) -> Ref:
        """Keep a copy, beside others of a group. OutOfMemoryError, and nothing is kept, where the system refuses a map."""
        whole = len(data) - len(data) % PAGE_BYTES
        if not whole:
            return self._place(data, (False, group))
        if whole == len(data):
            return self._place(data, (True, group))
        with memoryview(data) as view:
            ref = self._place(view[:whole], (True, group))
            try:
                ref.end = self._place(view[whole:], (False, group))
            except BaseException:
                self.free(ref)
                raise
        return ref

    def get(self, ref: Ref) -> bytes:
        """Return a copy."""
        found = ref.segment.view[ref.offset : ref.offset + ref.length]
        end = ref.end
        return found if end is None else found + end.segment.view[end.offset : end.offset + end.length]

    def free(self, ref: Ref) -> None:
        """Give bytes up. A segment goes with the last of it; gaps are closed by ``tidy``."""
        part: Ref | None = ref
        while part is not None:
            segment = part.segment
            segment.refs.remove(part)
            segment.alive -= part.length
            self.alive_bytes -= part.length
            if not segment.refs:
                self._drop(segment)
            elif segment.place[0] and _PUNCHES:
                segment.loose.append((part.offset, part.length))
                self._loose.add(segment)
            part = part.end

    def tidy(self) -> None:
        """Close gaps where they take more than their share; call it after what frees. Where memory is short some are left."""
        with suppress(OutOfMemoryError):
            self._tidy()

    def squeeze(self) -> None:
        """Close nearly all gaps: what was freed is to be back at the system now. Where memory is short some are left."""
        with suppress(OutOfMemoryError):
            self._squeeze()

    # ---- inside ----

    def _tidy(self) -> None:
        self._punch()
        if self.held_bytes - self.alive_bytes > max(SEGMENT_BYTES, self.alive_bytes // _DEAD_SHARE):
            self._squeeze()
        if len(self._segments) * SEGMENT_BYTES > SEGMENT_BYTES + _SPARSE_SHARE * self.alive_bytes:
            for segment in [each for each in self._segments if each.alive < each.size // _SPARSE_SHARE]:
                if segment is not self._filling.get(segment.place):
                    self._move_out(segment)

    def _squeeze(self) -> None:
        self._punch()
        gaps = sorted((each for each in self._segments if each.held > each.alive), key=_gaps, reverse=True)
        for segment in gaps:
            if self.held_bytes - self.alive_bytes <= self.alive_bytes // _TIDY_SHARE:
                return
            if segment is self._filling.get(segment.place):
                del self._filling[segment.place]
            self._move_out(segment)

    def _punch(self) -> None:
        """Give back the pages that were freed, those that lie together at once."""
        if sys.platform != "linux":  # where gaps are closed instead
            return
        for segment in self._loose:
            ranges = sorted(segment.loose)
            begin, end = ranges[0][0], ranges[0][0]
            for offset, length in ranges:
                if offset != end:
                    segment.view.madvise(mmap.MADV_DONTNEED, begin, end - begin)
                    begin = offset
                end = offset + length
                segment.punched += length
                self.held_bytes -= length
            segment.view.madvise(mmap.MADV_DONTNEED, begin, end - begin)
            segment.loose.clear()
        self._loose.clear()

    def _place(self, data: "bytes | bytearray | memoryview", place: _Place) -> Ref:
        size, segment = len(data), self._filling.get(place)
        if size > SEGMENT_BYTES:
            segment = self._add(size, place)
        elif segment is None or segment.used + size > segment.size:
            segment = self._filling[place] = self._add(SEGMENT_BYTES, place)
        ref = Ref(segment, segment.used, size)
        segment.view[segment.used : segment.used + size] = data
        segment.used += size
        self.held_bytes += size
        self._join(ref)
        return ref

    def _join(self, ref: Ref) -> None:
        ref.segment.refs.add(ref)
        ref.segment.alive += ref.length
        self.alive_bytes += ref.length

    def _leave(self, ref: Ref) -> None:
        ref.segment.refs.remove(ref)
        ref.segment.alive -= ref.length
        self.alive_bytes -= ref.length

    def _move_out(self, segment: _Segment) -> None:
        for ref in sorted(segment.refs, key=_offset):
            moved = self._place(segment.view[ref.offset : ref.offset + ref.length], segment.place)
            self._leave(moved)
            self._leave(ref)
            ref.segment, ref.offset = moved.segment, moved.offset
            self._join(ref)
        self._drop(segment)

    def _add(self, size: int, place: _Place) -> _Segment:
        segment = _Segment(size, place)
        self._segments.add(segment)
        return segment

    def _drop(self, segment: _Segment) -> None:
        self._segments.remove(segment)
        self._loose.discard(segment)
        if segment is self._filling.get(segment.place):
            del self._filling[segment.place]
        self.held_bytes -= segment.held
        segment.view.close()


def _gaps(segment: _Segment) -> float:
    return (segment.held - segment.alive) / segment.held


def _offset(ref: Ref) -> int:
    return ref.offset


def _map(size: int) -> mmap.mmap:
    try:
        if sys.platform == "win32":
            return mmap.mmap(-1, size)
        made = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        message = f"the system refused a map of {size} bytes for a store: {error}"
        raise OutOfMemoryError(message, requested_bytes=size) from error
    if sys.platform == "linux":
        with suppress(OSError):  # a system without huge pages
            # A huge page that reaches into a neighbour would stay until both are unmapped.
            made.madvise(mmap.MADV_NOHUGEPAGE)
    return made

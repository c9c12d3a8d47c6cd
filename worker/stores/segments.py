"""Bytes in anonymous maps of 2 MiB, which are compacted or dropped whole: what is freed is back at the system.

Objects that are freed into a heap leave its pages where they are. Here an entry is a range of a segment; a segment whose
last entry goes is unmapped, and where many have gaps, what is left of them moves together. Its owner locks.
"""

import mmap
import sys
from contextlib import suppress

from worker.plugins import OutOfMemoryError

SEGMENT_BYTES = 2 * 2**20

_DEAD_SHARE = 4
"""Gaps are closed when they take more than one part in so many of what is alive."""
_TIDY_SHARE = 64
"""And then until they take less than one part in so many."""


class Ref:
    """Where an entry's bytes are; they may move."""

    __slots__ = ("length", "offset", "segment")

    def __init__(self, segment: "_Segment", offset: int, length: int) -> None:
        self.segment = segment
        self.offset = offset
        self.length = length


class _Segment:
    __slots__ = ("alive", "refs", "size", "used", "view")

    def __init__(self, size: int) -> None:
        self.view = _map(size)
        self.size = size
        self.used = 0
        """Up to here it was written, and so takes memory."""
        self.alive = 0
        self.refs: set[Ref] = set()

    @property
    def dead(self) -> int:
        """Bytes of it that take memory for nothing."""
        return self.used - self.alive


class SegmentMemory:
    """Entries of any size; one larger than a segment has a map of its own."""

    def __init__(self) -> None:
        # All mutable state.
        self._segments: set[_Segment] = set()
        self._filling: _Segment | None = None
        self.alive_bytes = 0
        self.held_bytes = 0
        """What the maps take: what is alive, and the gaps."""

    def put(self, data: bytes | bytearray) -> Ref:
        """Keep a copy. OutOfMemoryError, and nothing is kept, where the system refuses a map."""
        segment = self._filling
        if len(data) > SEGMENT_BYTES:
            segment = self._add(len(data))
        elif segment is None or segment.used + len(data) > segment.size:
            segment = self._filling = self._add(SEGMENT_BYTES)
        return self._append(segment, data)

    def get(self, ref: Ref) -> bytes:
        """Return a copy."""
        return ref.segment.view[ref.offset : ref.offset + ref.length]

    def free(self, ref: Ref) -> None:
        """Give bytes up. A segment goes with its last entry; gaps are closed by ``tidy``."""
        segment = ref.segment
        segment.refs.remove(ref)
        segment.alive -= ref.length
        self.alive_bytes -= ref.length
        if not segment.refs:
            self._drop(segment)

    def tidy(self) -> None:
        """Close gaps where they take more than their share; call it after what frees. OutOfMemoryError: some are left."""
        if self.held_bytes - self.alive_bytes > max(SEGMENT_BYTES, self.alive_bytes // _DEAD_SHARE):
            self.squeeze()

    def squeeze(self) -> None:
        """Close nearly all gaps: what was freed is to be back at the system now. OutOfMemoryError: some are left."""
        gaps = sorted((each for each in self._segments if each.dead), key=_gaps, reverse=True)
        for segment in gaps:
            if self.held_bytes - self.alive_bytes <= self.alive_bytes // _TIDY_SHARE:
                return
            if segment is self._filling:
                self._filling = None
            self._move_out(segment)

    def _move_out(self, segment: _Segment) -> None:
        for ref in sorted(segment.refs, key=_place):
            moved = self.put(self.get(ref))
            target = moved.segment
            target.refs.remove(moved)
            target.refs.add(ref)
            ref.segment, ref.offset = target, moved.offset
            segment.refs.remove(ref)
            segment.alive -= ref.length
            self.alive_bytes -= ref.length
        self._drop(segment)

    def _append(self, segment: _Segment, data: bytes | bytearray) -> Ref:
        ref = Ref(segment, segment.used, len(data))
        segment.view[segment.used : segment.used + len(data)] = data
        segment.refs.add(ref)
        segment.used += len(data)
        segment.alive += len(data)
        self.alive_bytes += len(data)
        self.held_bytes += len(data)
        return ref

    def _add(self, size: int) -> _Segment:
        segment = _Segment(size)
        self._segments.add(segment)
        return segment

    def _drop(self, segment: _Segment) -> None:
        self._segments.remove(segment)
        if segment is self._filling:
            self._filling = None
        self.held_bytes -= segment.used
        segment.view.close()


def _gaps(segment: _Segment) -> float:
    return segment.dead / segment.used if segment.used else 0.0


def _place(ref: Ref) -> int:
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
        # A huge page that reaches into a neighbour would stay until both are unmapped.
        with suppress(OSError):  # a system without huge pages
            made.madvise(mmap.MADV_NOHUGEPAGE)
    return made

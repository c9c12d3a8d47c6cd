"""Giving segments back: what in them goes, what is dear and moves, and the maps as a whole.

A segment whose records are all of one store, of which nothing else is known, is given back without a look at them: the store
is told how many went, its index finds them gone (``key_index.py``), and what may be dear is found by what was used again.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from math import frexp
from typing import NamedTuple

from worker.plugins import OutOfMemoryError
from worker.stores.entry import ALONE, HEAD, LARGE_BYTES, STATE_AT, sizes
from worker.stores.giving import Giver, Pricing
from worker.stores.segment import OFFSET_BITS, OFFSETS, Band, Segment
from worker.stores.segments import Head, SegmentMemory


class _Sorted(NamedTuple):
    """What of a segment stays, and what goes."""

    staying: dict[int, Head]
    """By where it is: what is dear."""
    going: dict[int, tuple[int, int]]
    """By store: how many entries, and what they count for."""
    plain: bool
    """Whether nothing else is known of any that goes."""


class Releasing:
    """Gives segments of one kind's stores back. With the kind's lock, which may be released between two of them."""

    def __init__(
        self,
        memory: SegmentMemory,
        stores: Mapping[int, Giver],
        held: Callable[[], int],
        segments: Iterable[Segment],
    ) -> None:
        self._memory = memory
        self._stores = stores
        self._held = held
        self._again = _used_again(stores, filter(self._is_there, segments))

    def release(self, segment: Segment, dear: float, over: int, pricing_of: Callable[[], Pricing]) -> None:
        """Have what is in a segment leave memory, or as much of it as is over; what is dear, by the byte, stays.

        What stays lies elsewhere then, and the segment is gone, unless that is most of it. Huge pages go as a whole: of a part
        of one the system would have nothing back.
        """
        if not self._is_there(segment):
            return  # it went meanwhile
        if segment.huge and over * len(segment.parts) > segment.given * (len(segment.parts) - 1):
            over = segment.given
        if over >= segment.given and self._is_of_one(segment) and not self._again.get(segment.number):
            self._stores[segment.only].forget_many(segment.count, segment.given)
            self._memory.drop(segment)
            return
        pricing = pricing_of()
        found = self._sorted(segment, dear, pricing)
        if over < segment.given and segment.huge:
            self._release_first(segment, found.staying, self._held() - over, pricing)
        elif over < segment.given:
            self._release_cheapest(segment, found.staying, self._held() - over, pricing)
        else:
            self._release_whole(segment, found, pricing)

    # ---- inside ----

    def _sorted(self, segment: Segment, dear: float, pricing: Pricing) -> _Sorted:
        if not self._is_of_one(segment):
            return _looked_at(segment, self._stores, pricing, dear)
        view = segment.view
        heads = (
            (at, HEAD.unpack_from(view, at))
            for at in self._again.get(segment.number, ())
            if view[at + STATE_AT]
        )
        staying = {at: head for at, head in heads if _is_dear(head, pricing, dear)}
        size = segment.given - sum(sizes(head)[1] for head in staying.values())
        return _Sorted(staying, {segment.only: (segment.count - len(staying), size)}, plain=True)

    def _release_whole(self, segment: Segment, found: _Sorted, pricing: Pricing) -> None:
        few = 2 * sum(sizes(head)[0] for head in found.staying.values()) <= segment.alive
        try:
            if few:
                for offset, head in found.staying.items():
                    self._memory.move(segment, offset, _band(head, pricing))
        except OutOfMemoryError:
            few = False
        if few and found.plain:
            for store, (count, size) in found.going.items():
                self._stores[store].forget_many(count, size)
            self._memory.drop(segment)
            return
        for offset in list(segment.records()):
            if offset not in found.staying:
                self._give_up(segment, offset)
        self._drop_empty(segment)

    def _release_first(self, segment: Segment, staying: dict[int, Head], goal: int, pricing: Pricing) -> None:
        """Have the first parts go, as many as are needed: all in it costs about the same."""
        end = 0
        for offset in list(segment.records()):
            if (
                offset >= end and self._held() + offset - end <= goal
            ):  # the last record's end is in a part that stays
                return
            end = segment.end_of_part(offset)
            if offset not in staying:
                self._give_up(segment, offset)
                continue
            try:
                self._memory.move(segment, offset, _band(staying[offset], pricing))
            except OutOfMemoryError:
                return
        self._drop_empty(segment)

    def _release_cheapest(
        self, segment: Segment, staying: dict[int, Head], goal: int, pricing: Pricing
    ) -> None:
        """Have as many go as are needed, the cheapest by the byte first, and what stays close its gaps."""
        rows = []
        for offset in segment.records():
            if offset not in staying:
                head = HEAD.unpack_from(segment.view, offset)
                rows.append((pricing.of(head) / (sizes(head)[1] or 1), offset))
        for _, offset in sorted(rows):
            if self._held() <= goal:
                break
            self._give_up(segment, offset)
        if not self._is_there(segment):
            return
        if not segment.count:
            self._memory.drop(segment)
        elif 2 * segment.alive <= segment.held:
            with suppress(OutOfMemoryError):
                self._memory.move_out(segment, lambda head: _band(head, pricing))

    def _give_up(self, segment: Segment, offset: int) -> None:
        store = HEAD.unpack_from(segment.view, offset)[9]
        self._stores[store].give_up_at(segment.place(offset))

    def _drop_empty(self, segment: Segment) -> None:
        if self._is_there(segment) and not segment.count:
            self._memory.drop(segment)

    def _is_of_one(self, segment: Segment) -> bool:
        return segment.only > 0 and self._stores[segment.only].plain

    def _is_there(self, segment: Segment) -> bool:
        return self._memory.segments.get(segment.number) is segment


def _used_again(stores: Mapping[int, Giver], segments: Iterable[Segment]) -> dict[int, list[int]]:
    """Return where, by segment, the records are that were used again, of segments that are of one store each."""
    found: dict[int, list[int]] = {}
    own: dict[int, dict[int, Segment]] = {}
    for segment in segments:
        own.setdefault(segment.only, {})[segment.number] = segment
    for number, those in own.items():
        store = stores.get(number)
        if store is None:
            continue
        again = store.prices.again
        if len(again) < sum(each.count for each in those.values()):
            for name in again:
                for place in store.places_of(name):
                    if place >> OFFSET_BITS in those:
                        found.setdefault(place >> OFFSET_BITS, []).append(place & OFFSETS)
        else:
            for segment in those.values():
                unpack, view = HEAD.unpack_from, segment.view
                found[segment.number] = [at for at in segment.records() if unpack(view, at)[0] in again]
    return found


def _looked_at(segment: Segment, stores: Mapping[int, Giver], pricing: Pricing, dear: float) -> _Sorted:
    """Return what goes and stays of any segment: each record is looked at, and the price of what was used again."""
    found, plain = _Sorted({}, {}, plain=True), True
    for offset in segment.records():
        head = HEAD.unpack_from(segment.view, offset)
        store = stores[head[9]]
        if head[0] in store.prices.again and _is_dear(head, pricing, dear):
            found.staying[offset] = head
            continue
        count, size = found.going.get(head[9], (0, 0))
        found.going[head[9]] = count + 1, size + sizes(head)[1]
        plain &= store.plain and head[13] == ALONE and not head[10] and head[7] <= LARGE_BYTES
    return found._replace(plain=plain)


def _is_dear(head: Head, pricing: Pricing, dear: float) -> bool:
    return pricing.of(head) > dear * (sizes(head)[1] or 1)


def _band(head: Head, pricing: Pricing) -> Band:
    """Return beside which others a record lies that is moved: those of about the same price."""
    return "moved", frexp(pricing.of(head) / (sizes(head)[1] or 1))[1]

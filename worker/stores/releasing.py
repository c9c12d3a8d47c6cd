"""Giving a segment back: what in it goes, what is dear and moves, and the map as a whole."""

from collections.abc import Callable
from contextlib import suppress
from math import frexp
from typing import TYPE_CHECKING

from worker.plugins import OutOfMemoryError
from worker.stores.entry import ALONE, ENTRY_BYTES, HEAD, sizes
from worker.stores.giving import Pricing
from worker.stores.segment import Band, Segment
from worker.stores.segments import Head, SegmentMemory
from worker.stores.table import LARGE_BYTES

if TYPE_CHECKING:
    from worker.stores.index import EntryStore


class Releasing:
    """Gives segments of one kind's stores back, at one moment. With the kind's lock."""

    def __init__(
        self,
        memory: SegmentMemory,
        stores: "dict[int, EntryStore]",
        pricing: Pricing,
        held: Callable[[], int],
    ) -> None:
        self._memory = memory
        self._stores = stores
        self._pricing = pricing
        self._held = held

    def release(self, segment: Segment, dear: float, goal: int) -> None:
        """Have what is in a segment leave memory until no more than the goal is held; what is dear, by the byte, stays.

        What stays lies elsewhere then, and the segment is gone, unless that is most of it.
        """
        if not self._is_there(segment):
            return  # it went meanwhile
        sorting = _Sorting(self._stores, self._pricing, segment, dear)
        if self._held() - goal < segment.given:
            self._release_cheapest(segment, sorting, goal)
        else:
            self._release_whole(segment, sorting)

    # ---- inside ----

    def _release_whole(self, segment: Segment, sorting: "_Sorting") -> None:
        few = 2 * sum(sizes(head)[0] for _, head in sorting.staying) <= segment.alive
        try:
            if few:
                for offset, head in sorting.staying:
                    self._memory.move(segment, offset, self._band(head))
        except OutOfMemoryError:
            few = False
        if few and sorting.plain:
            for store, (going, size) in sorting.going.items():
                self._stores[store].forget_plain(going, size)
            self._memory.drop(segment)
            return
        for store, (going, _) in sorting.going.items():
            for _, place in going:
                self._stores[store].give_up_at(place)
        if self._is_there(segment) and not segment.count:
            self._memory.drop(segment)

    def _release_cheapest(self, segment: Segment, sorting: "_Sorting", goal: int) -> None:
        """Have as many go as are needed, the cheapest by the byte first, and what stays close its gaps."""
        rows = []
        for store, (going, _) in sorting.going.items():
            for _, place in going:
                head = self._memory.head(place)
                rows.append((self._pricing.of(head) / (sizes(head)[1] or 1), place, store))
        for _, place, store in sorted(rows):
            if self._held() <= goal:
                break
            self._stores[store].give_up_at(place)
        if not self._is_there(segment):
            return
        if not segment.count:
            self._memory.drop(segment)
        elif 2 * segment.alive <= segment.held:
            with suppress(OutOfMemoryError):
                self._memory.move_out(segment, self._band)

    def _band(self, head: Head) -> Band:
        """Return beside which others a record lies that is moved: those of about the same price."""
        return "moved", frexp(self._pricing.of(head) / (sizes(head)[1] or 1))[1]

    def _is_there(self, segment: Segment) -> bool:
        return self._memory.segments.get(segment.number) is segment


class _Sorting:
    """What goes of a segment, and what is dear: by the price of the byte, which is looked at of what was used again alone."""

    def __init__(
        self, stores: "dict[int, EntryStore]", pricing: Pricing, segment: Segment, dear: float
    ) -> None:
        self.plain = True
        """Whether nothing else is known of any that goes."""
        self.staying: list[tuple[int, Head]] = []
        self.going: dict[int, tuple[list[tuple[int, int]], int]] = {}
        """By store: hashes and places, and what they count for."""
        view, unpack, begin = segment.view, HEAD.unpack_from, segment.place(0)
        number, size, going, plain = 0, 0, list[tuple[int, int]](), True
        again: Callable[[int], bool] = bool
        for offset in segment.offsets:
            head = unpack(view, offset)
            name, _, _, _, _, _, _, content, _, store, tags, key, _, state = head
            if not state:
                continue
            if store != number:
                if number:
                    self.going[number] = going, size
                number = store
                going, size = self.going.get(store, ([], 0))
                again, plain = stores[store].prices.again, stores[store].plain
            if again(name) and pricing.of(head) > dear * (sizes(head)[1] or 1):
                self.staying.append((offset, head))
                continue
            going.append((name, begin + offset))
            size += content + key
            if tags or state != ALONE or content > LARGE_BYTES or not plain:
                self.plain = False
        if number:
            self.going[number] = going, size
        self.going = {
            each: (those, total + ENTRY_BYTES * len(those)) for each, (those, total) in self.going.items()
        }

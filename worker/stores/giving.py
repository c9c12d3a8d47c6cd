"""What of a kind's stores goes when memory is short, and for which price: entries one by one, or whole segments.

1. Where little is wanted, single entries: the cheapest by the byte of a sample, as it is at a store's own bound.
2. Where more is, segments: what lies together has about one price, which some of its entries tell. What in one is
   much dearer than the rest of what goes (it was used often, say) is moved elsewhere, and the map goes as a whole: that
   costs a hundredth of what closing the gaps of scattered entries does.
3. What stores hold beside entries, such as an index, as a whole.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from worker.plugins import Offer
from worker.stores.entry import HEAD, sizes
from worker.stores.prices import Draws, Prices
from worker.stores.segment import SEGMENT_BYTES, Segment
from worker.stores.segments import OWN_ORDER, SegmentMemory

MIB = 2**20
_PARTS = 4
"""Of offers: each is half of what is needed after it, since closing gaps costs about the same for any of them."""
_PRICED = 4096
"""Entries that are priced for an offer, about."""
_SAMPLE = 32
"""Entries looked at, at least: the cheapest of so many at random is among the cheapest few of a hundred."""
_SEGMENTS, _OF_SEGMENTS = 4, 8
"""From so many on, whole ones go; already from one on, where there are eight times as many; and where they are in huge pages, of
eight of them on always: what single entries leave of those is gaps, of which only what is above a 64th of all is closed."""
_TELLING = 4
"""Entries that tell a segment's price: they lie together because it is about the same."""
DEAR = 4.0
"""What costs so many times what the last of what goes does, by the byte, is moved, and stays."""


class Giver(Protocol):
    """A store, as far as what goes of it is concerned (``held.HeldEntries``). Its kind has the lock."""

    prices: Prices
    plain: bool
    """Whether nothing else is kept of an entry than its record, so that many can go at once."""

    @property
    def number(self) -> int:
        """By which its records know it."""
        ...

    @property
    def on_disk(self) -> bool:
        """Whether what leaves its memory is still there."""
        ...

    @property
    def read_ms(self) -> float | None:
        """What having an entry's bytes in memory again takes; None where they have to be made again."""
        ...

    def parts(self) -> "Iterator[tuple[str, int, float]]":
        """Return what may go beside the entries: names, bytes, and what they are worth keeping."""
        ...

    def lots(self, need_bytes: int) -> "Iterator[Lot]":
        """Return what goes first of a store that has an order of its own; others' entries are found in their segments."""
        ...

    def places_of(self, name: int) -> list[int]:
        """Return where the records of a hash are."""
        ...

    def give_up(self, lot: "EntryLot") -> bool:
        """Have an entry's bytes leave memory, and the entry where it has no file. False where they are not there."""
        ...

    def give_up_at(self, place: int) -> None:
        """Have the entry of a record leave memory."""
        ...

    def give_up_part(self, name: str) -> bool:
        """Have something that is no entry leave memory. False where it is not there."""
        ...

    def forget_many(self, count: int, size: int) -> None:
        """Forget entries of which nothing else is known, and whose segments go: how many, and what they count for."""
        ...


class EntryLot(NamedTuple):
    """One entry, as it was when it was looked at."""

    store: Giver
    hash: int
    serial: int


class PartLot(NamedTuple):
    """Something that a store holds beside its entries."""

    store: Giver
    name: str


What = EntryLot | PartLot | Segment


class Lot(NamedTuple):
    """What goes as a whole: its price a byte, its bytes, and milliseconds."""

    price: float
    bytes: int
    cost_ms: float
    what: What


_Uses = tuple[Callable[[int], float], float | None, AbstractSet[int]]
"""Of a store: what tells how often an entry is expected to be used, what reading one takes, and which were used more than once."""


class Pricing:
    """What entries cost at one moment, whichever store they are of."""

    def __init__(self, stores: Mapping[int, Giver], now_ns: int) -> None:
        self._stores = stores
        self._now_ns = now_ns
        self._uses: dict[int, _Uses] = {}

    def told(self, segment: Segment) -> tuple[int, float]:
        """Return the bytes that a few of a segment's records give back, or all, and the milliseconds that they are worth."""
        size, cost = 0, 0.0
        if segment.count == len(segment.offsets):  # it knows them all: they need not be looked at
            if segment.only:
                uses, read_ms, again = self._uses.get(segment.only) or self._look(segment.only)
                names = segment.told_names
                if read_ms is None and again.isdisjoint(
                    names
                ):  # none was used again since: they are worth the same
                    return segment.told_bytes, segment.told_ms * uses(names[len(names) // 2])
            for name, made_ms, given, store in segment.telling:
                uses, read_ms, _ = self._uses.get(store) or self._look(store)
                size += given
                cost += (made_ms if read_ms is None else read_ms) * uses(name)
            if size:
                return size, cost
        offsets = segment.offsets
        return (
            self._seen(segment, offsets[:: -(-len(offsets) // _TELLING)])
            or self._seen(segment, segment.records())
            or (1, 0.0)
        )

    def _seen(self, segment: Segment, offsets: Iterable[int]) -> tuple[int, float] | None:
        """Return that of these records; None where all are gone, or give nothing back."""
        view, unpack = segment.view, HEAD.unpack_from
        size, cost = 0, 0.0
        for offset in offsets:
            head = unpack(view, offset)
            if head[13]:
                size += sizes(head)[1]
                cost += self.of(head)
        return (size, cost) if size else None

    def of(self, head: tuple[Any, ...]) -> float:
        """Return what having the entry of a record in memory is worth, in milliseconds."""
        uses, read_ms, _ = self._uses.get(head[9]) or self._look(head[9])
        return (head[6] if read_ms is None else read_ms) * uses(head[0])

    def making(self, head: tuple[Any, ...]) -> float:
        """Return what having it at all is worth."""
        uses, _, _ = self._uses.get(head[9]) or self._look(head[9])
        return head[6] * uses(head[0])  # type: ignore[no-any-return]  # a head's is a float

    def _look(self, number: int) -> _Uses:
        store = self._stores[number]
        known = self._uses[number] = store.prices.at(self._now_ns), store.read_ms, store.prices.again
        return known


class Giving:
    """The lots of one kind's stores, at one moment. With the kind's lock."""

    def __init__(
        self, memory: SegmentMemory, stores: Mapping[int, Giver], pricing: Pricing, draws: Draws
    ) -> None:
        self._memory = memory
        self._stores = stores
        self._pricing = pricing
        self._draws = draws
        self._segments = [each for each in memory.segments.values() if each.given and each.band != OWN_ORDER]

    def lots(self, need_bytes: int, *, back: bool = True) -> list[Lot]:
        """Return what is cheapest, cheapest first: as much as is needed, or all there is.

        ``back``: it is to be back at the system, which has it of huge pages only as a whole.
        """
        found = list(self._own(need_bytes))
        entries = sum(each.count for each in self._segments)
        looked_at = 2 * need_bytes * entries // max(1, self._memory.given_bytes)
        many = self._memory.given_bytes // (_OF_SEGMENTS * SEGMENT_BYTES)
        least = SEGMENT_BYTES if many >= _SEGMENTS else _SEGMENTS * SEGMENT_BYTES
        if many and back and any(each.huge for each in self._segments):
            least = 0
        if need_bytes >= least or min(looked_at, entries) > _PRICED:
            found += self._whole()
        else:
            found += self._single(need_bytes, entries)
        found.sort(key=itemgetter(0))  # its price
        return list(_enough(found, need_bytes))

    # ---- inside ----

    def _own(self, need_bytes: int) -> Iterator[Lot]:
        for store in self._stores.values():
            yield from store.lots(need_bytes)
            for name, size, cost_ms in store.parts():
                yield Lot(cost_ms / max(1, size), size, cost_ms, PartLot(store, name))

    def _whole(self) -> Iterator[Lot]:
        told, make = self._pricing.told, tuple.__new__
        for segment in self._segments:
            size, cost = told(segment)
            given = segment.given
            yield make(
                Lot, (cost / size, given, cost / size * given, segment)
            )  # Lot(...) takes twice as long

    def _single(self, need_bytes: int, entries: int) -> Iterator[Lot]:
        if entries <= 2 * _SAMPLE or self._memory.given_bytes <= 2 * need_bytes:
            for segment in self._segments:
                yield from filter(None, (self._lot(segment, offset) for offset in segment.records()))
            return
        draw, picked, size = self._draws.look(), set[tuple[int, int]](), 0
        while (len(picked) < _SAMPLE or size < 2 * need_bytes) and len(picked) < entries:
            number = draw()
            segment = self._segments[number % len(self._segments)]
            offset = segment.offsets[(number >> 20) % len(segment.offsets)]
            lot = self._lot(segment, offset)
            if lot is not None and (segment.number, offset) not in picked:
                picked.add((segment.number, offset))
                size += lot.bytes
                yield lot

    def _lot(self, segment: Segment, offset: int) -> Lot | None:
        head = HEAD.unpack_from(segment.view, offset)
        if not head[13]:
            return None
        size, cost = sizes(head)[1], self._pricing.of(head)
        return Lot(cost / max(1, size), size, cost, EntryLot(self._stores[head[9]], head[0], head[1]))


def offers_of(lots: Iterable[Lot], need_bytes: int) -> Iterator[Offer]:
    """Put lots together into few offers: the first an eighth of the need, but a MiB at least, the last half of it."""
    part: list[Lot] = []
    size = reached = 0
    goal = max(MIB, need_bytes >> (_PARTS - 1))
    for each in lots:
        part.append(each)
        size += each.bytes
        if reached + size >= goal:
            yield _offer(part, size)
            reached += size
            if reached >= need_bytes:
                return
            part, size = [], 0
            while goal <= reached:
                goal = min(2 * goal, need_bytes)
    if part:
        yield _offer(part, size)


def _offer(part: list[Lot], size: int) -> Offer:
    cost = sum(each.cost_ms for each in part)
    # No count: who puts several of these together tells the words of one for all of them.
    return Offer(size, cost, "entries that are the cheapest to make again", divisible=True, tag=tuple(part))


def _enough(lots: list[Lot], need_bytes: int) -> Iterator[Lot]:
    for each in lots:
        if need_bytes <= 0:
            return
        need_bytes -= each.bytes
        yield each

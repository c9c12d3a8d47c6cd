"""What a store has in memory: its entries' records, what they are worth, and what goes for others. All with the kind's lock."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from math import frexp

from worker.core.clock import NS_PER_MS
from worker.plugins import OutOfMemoryError, Usage
from worker.stores.base import Content, EntryFile, Item, Options
from worker.stores.entry import ALONE, FORMS, Entry, counted, sizes
from worker.stores.giving import EntryLot, Lot
from worker.stores.key_index import hash_of
from worker.stores.owner import Owner
from worker.stores.prices import Prices
from worker.stores.segment import Band
from worker.stores.segments import Head
from worker.stores.table import EntryTable

_GROUPS, _MIDDLE = 8, 10
"""Octaves of milliseconds a byte whose entries lie apart, to both sides of one a KiB."""
_SAMPLE = 32
"""Entries that are looked at where one has to go: the cheapest of so many at random is among the cheapest few of a hundred."""


class HeldEntries:
    """The entries of one store, and how it uses memory for them."""

    plain = True
    """Whether nothing else is kept of an entry than its record, so that many can go at once."""

    renews = False
    """Whether a use changes when an entry ends."""

    def __init__(self, kind: Owner, options: Options, file: EntryFile | None) -> None:
        self._kind = kind
        self._memory = kind.memory
        self._file = file
        # All mutable state, guarded by the kind's lock.
        self._options = options
        self._table = EntryTable(kind.memory)
        self.prices = Prices()
        self._parts: dict[str, tuple[int, float | None]] = {}
        """What is held beside the entries: bytes, and what having it there again takes; None for what never goes."""
        self._hits = self._misses = self._evictions = 0
        self._saved_ms = 0.0

    # ---- what it is ----

    @property
    def number(self) -> int:
        """By which its records know it."""
        return self._table.number

    @property
    def limit_bytes(self) -> int:
        """The most that it holds."""
        return self._options.max_bytes or self._kind.default_bytes

    @property
    def max_entries(self) -> int | None:
        """The most entries that it has; None for any number."""
        return self._options.max_entries or self._kind.default_entries

    @property
    def on_disk(self) -> bool:
        """Whether what leaves its memory is still there."""
        return self._file is not None

    @property
    def problem(self) -> str | None:
        """What its disk had against the last change; None for nothing, and where it has no file."""
        return None if self._file is None else self._file.problem

    @property
    def held_bytes(self) -> int:
        """What it has in memory."""
        return self._table.held_bytes + sum(size for size, _ in self._parts.values())

    @property
    def overhead_bytes(self) -> int:
        """What it takes beside that: what is known of uses, and its part of the gaps and rests in segments."""
        memory = self._memory
        shared = memory.held_bytes - memory.alive_bytes
        return self.prices.held_bytes + shared * self._table.held_bytes // max(1, self._kind.entries_bytes)

    @property
    def read_ms(self) -> float | None:
        """What having an entry's bytes in memory again takes; None where they have to be made again."""
        return None if self._file is None else self._file.read_ms

    @property
    def usage(self) -> Usage:
        """What its entries saved."""
        return Usage(self._hits, self._misses, self._saved_ms)

    # ---- what goes when memory is short ----

    def parts(self) -> Iterator[tuple[str, int, float]]:
        """Return what may go beside the entries: names, bytes, and what they are worth keeping."""
        if self._parts:
            uses = self.prices.at(self._kind.now_ns())
            for name, (size, cost_ms) in self._parts.items():
                if cost_ms is not None:
                    yield name, size, cost_ms * uses(hash_of(name))

    def lots(self, _need_bytes: int) -> Iterator[Lot]:
        """Return what goes first of a store that has an order of its own; others' entries are found in their segments."""
        return iter(())

    def give_up_part(self, name: str) -> bool:
        """Have something that is no entry leave memory. False where it is not there."""
        return name in self._parts

    def give_up(self, lot: EntryLot) -> bool:
        """Have an entry's bytes leave memory, and the entry where it has no file. False where they are not there."""
        entry = self._table.of_serial(lot.hash, lot.serial)
        return entry is not None and self._give_up(entry)

    def give_up_at(self, place: int) -> None:
        """Have the entry of a record leave memory."""
        self._give_up(self._memory.entry(place))

    def places_of(self, name: int) -> list[int]:
        """Return where the records of a hash are."""
        return self._table.places_of(name)

    def next_price(self, need_bytes: int) -> tuple[int, float]:
        """Return how many bytes the next ones of it are, and what they are worth keeping, of a sample."""
        pricing, size, cost = self._kind.pricing(), 0, 0.0
        for _, place in self.victims_of(need_bytes):
            head = self._memory.head(place)
            if size < need_bytes and self._memory.is_offered(place):
                size, cost = size + sizes(head)[1], cost + pricing.of(head)
        return size, cost

    def shrink(self) -> None:
        """Give back what its tables have too much of, and what is made again; where memory is short some is left."""
        self._table.forget_order()
        self._shrink_tables()

    def _shrink_tables(self) -> None:
        with suppress(OutOfMemoryError):
            self._table.shrink()

    def leave(self) -> None:
        """Be none of its kind's any more."""
        self._table.close()

    @property
    def evictions(self) -> int:
        """How many entries went for others."""
        return self._evictions

    def forget_many(self, count: int, size: int) -> None:
        """Forget entries in memory alone of which nothing else is known, and whose segments go: how many, and what they count for."""
        self._table.forget_many(count, size)
        self._evictions += count
        self._kind.draws.note_event()

    def victims_of(self, need_bytes: int) -> list[tuple[float, int]]:
        """Return entries of a sample with twice so many bytes, or of all, cheapest by the byte first: prices and places."""
        pricing, head = self._kind.pricing(), self._memory.head
        places: Iterable[int] = self._table.places()
        if len(self._table) > 2 * _SAMPLE and self._table.total_bytes > 2 * need_bytes:
            places = self._sampled(2 * need_bytes)
        heads = ((head(place), place) for place in places)
        return sorted((pricing.making(each) / counted(each), place) for each, place in heads)

    # ---- what a kind may do otherwise ----

    def _refusal(self, size: int, _replaced: Entry | None) -> str | None:
        """Return why an entry of a size can't be taken now."""
        return None if self._file is not None else self._kind.refusal(size)

    def _lose_vector(self, key: str) -> None:
        """Have an entry that goes not be found by its vector any more."""

    def _band(self, entry: Entry) -> Band:
        """Return which entries it lies beside: those that go at about the same price a byte; None for what never goes."""
        if self._file is not None:  # reading back costs about the same for all
            return 0
        return max(-_GROUPS, min(_GROUPS, frexp(entry.cost_ms / entry.entry_bytes)[1] + _MIDDLE))

    def _cheapest(self, need_bytes: int) -> Iterable[Entry]:
        """Return entries that together have so many bytes, or all, those that go first before the others."""
        return (self._memory.entry(place) for _, place in self.victims_of(need_bytes))

    @property
    def _mapped_bytes(self) -> int:
        """What the system has given for entries of all scopes, and for this one's parts."""
        return self._memory.held_bytes

    def _loaded(self, entry: Entry) -> None:
        """Take over an entry that was on disk."""

    # ---- inside ----

    def _prepare(self, entry: Entry, data: bytes | bytearray, old: Entry | None) -> int:
        """Have room in the tables for an entry, and where there is a file, its record: the disk is changed next.

        Returns how many others went from memory for that. OutOfMemoryError where there is no room even to note what is on
        disk, and all is as before.
        """
        self._table.new(entry)
        if self._file is None:
            return 0
        if self._kind.refusal(entry.entry_bytes) is None:
            evicted = self._kind.make_room(entry.entry_bytes, old)
            with suppress(OutOfMemoryError):
                self._memory.put(entry, data, self._band(entry))
                return evicted
        self._memory.put(entry, None, None)
        return 0

    def _stay(self, entry: Entry, data: bytes | bytearray) -> bool:
        """Have an entry that was prepared, and could not be written, in memory alone.

        False where its file is to be there after a restart, or memory has no room for it either.
        """
        if self._file is None or self._file.lasting or not entry.is_warm:
            return False
        self._memory.rewrite(entry, data, None, alone=True)
        return True

    def _unprepare(self, entry: Entry) -> None:
        """Give up what was prepared for an entry that was not taken."""
        if entry.place and self._table.same(entry) is None:
            self._memory.free(entry)
            entry.place = 0

    def _take(self, entry: Entry, data: bytes | bytearray, victims: list[Entry], old: Entry | None) -> int:
        """Do in memory what was done on disk, in place of an older entry. Returns how many others went."""
        for each in victims:
            self._remove(each)
        self._evictions += len(victims)
        evicted = len(victims)
        if self._file is None:
            evicted += self._kind.make_room(entry.entry_bytes, old)
            self._memory.put(entry, data, self._band(entry), alone=True)
        if old is not None and (
            evicted or self._file is not None
        ):  # it may lie elsewhere by now, or have gone
            old = self._table.get(entry.key)
        if old is not None:
            self._drop(old)
        self._add(entry)
        self.prices.put(entry.hash, entry.put_ns)
        self._memory.tidy()
        return evicted

    def _warm_content(self, entry: Entry) -> Content | None:
        """Return a copy of an entry's content, which was just looked at; None where it is on disk alone."""
        return Content(self._memory.content(entry), entry.form) if entry.is_warm else None

    def _used(self, place: int, head: Head, now_ns: int) -> Content:
        """Note a use of what is in memory, and return a copy of it: what ``_use`` and ``_warm_content`` do, of the head alone."""
        self._hits += 1
        self._saved_ms += head[6]
        self.prices.used(head[0], now_ns)
        self._kind.draws.note_event()
        return Content(self._memory.used(place, head, now_ns), FORMS[head[12]])

    def _use(self, entry: Entry, now_ns: int) -> None:
        self._hits += 1
        self._saved_ms += entry.cost_ms
        entry.used_ns = now_ns
        self._memory.note_use(entry)
        self.prices.used(entry.hash, now_ns)
        self._kind.draws.note_event()

    def _miss(self, key: str, now_ns: int) -> None:
        self._misses += 1
        self.prices.missed(hash_of(key), now_ns)
        self._kind.draws.note_event()

    def _victims(self, size: int, replaced: Entry | None) -> list[Entry]:
        """Return the cheapest entries that have to go so that so much fits within the bounds, beside what is replaced."""
        spared = 0 if replaced is None else replaced.entry_bytes
        most, count = self.max_entries, len(self._table)
        over = self._table.total_bytes - spared + size - self.limit_bytes
        many = 0 if most is None else count - (replaced is not None) + (size > 0) - most
        victims: list[Entry] = []
        if over <= 0 and many <= 0:
            return victims
        for each in self._cheapest(self._table.total_bytes if many > 1 else max(over, 1) + spared):
            if replaced is None or each.key != replaced.key:
                victims.append(each)
                over, many = over - each.entry_bytes, many - 1
                if over <= 0 and many <= 0:
                    break
        return victims

    def _sampled(self, size: int) -> Iterator[int]:
        draw, picked = self._kind.draws.look(), set[int]()
        while (len(picked) < _SAMPLE or size > 0) and 2 * len(picked) <= len(self._table):
            place = self._table.near(draw())
            if place not in picked:
                picked.add(place)
                size -= counted(self._memory.head(place))
                yield place

    def _add(self, entry: Entry) -> None:
        self._table.add(entry)
        self._kind.draws.note_event()

    def _remove(self, entry: Entry) -> None:
        """Remove an entry that was looked at before, if it is still there."""
        there = self._table.same(entry)
        if there is not None:
            self._lose_vector(there.key)
            self._drop(there)

    def _drop(self, entry: Entry) -> None:
        self._table.remove(entry)
        self._kind.draws.note_event()

    def _give_up(self, entry: Entry) -> bool:
        if not entry.is_warm:
            return False
        if self._file is None:
            self._evictions += 1
            self._lose_vector(entry.key)
            self._drop(entry)
        elif entry.state == ALONE:  # its disk was full
            return False
        else:
            self._cool(entry)
        return True

    def _heat(self, entry: Entry, data: bytes | bytearray) -> None:
        """Have bytes that were read in memory, where that has room for them."""
        if self._kind.refusal(entry.content_bytes) is not None:
            return
        self._kind.make_room(entry.content_bytes, None)
        there = self._table.same(entry)
        if there is not None:
            with suppress(OutOfMemoryError):
                self._table.rewrite(there, data, self._band(there))

    def _cool(self, entry: Entry) -> None:
        """Have an entry's bytes in memory no more; where they are nowhere else, or memory is too short even to note that, they stay."""
        if entry.state == ALONE:
            return
        with suppress(OutOfMemoryError):
            self._table.rewrite(entry, None, None)
            self._kind.draws.note_event()

    def _settle(self) -> None:
        """Give back what is much, after what removes."""
        self._memory.tidy()
        self._shrink_tables()

    def _keep_part(self, name: str, size: int, cost_ms: float | None) -> None:
        """Count what is held beside the entries, from now on; none of it where it is of no bytes."""
        self._kind.parts_bytes += size - self._parts.pop(name, (0, None))[0]
        if size:
            self._parts[name] = size, cost_ms

    def _count(self, now_ns: int) -> int:
        """Return how many entries there are whose time is not over."""
        if not self._table.any_ended(now_ns):
            return len(self._table)
        return sum(not each.ended(now_ns) for each in self._table)

    def _ttl_ns(self, item: Item) -> int | None:
        said = (item.ttl_ms, self._options.ttl_ms, self._kind.default_ttl_ms)
        ttl = next((each for each in said if each is not None), None)
        return None if ttl is None else ttl * NS_PER_MS

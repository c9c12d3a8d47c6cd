"""Where the record of a key is: hashes in open-addressed tables, in anonymous maps, 16 bytes a slot, that shrink again.

A table has at most 16,384 slots; one that is full is two of the next bit of the hashes (extendible hashing, Fagin et al.,
TODS 1979), so that no change takes longer for there being many keys. Where many records go at once, their slots are left:
whoever finds one is told that nothing is there, and a table that is made anew is made without them. Its owner locks.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress

from worker.stores.maps import anonymous

NAME_BITS = 60
"""Of a hash: in Python two digits, and no two of them are one number in a dictionary."""
_MASK = 2**NAME_BITS - 1
_SLOT_BYTES = 16
_LEAST, _MOST = 256, 16_384
"""Slots of a table: a page, and what is made anew within some milliseconds."""


def hash_of(key: str) -> int:
    """Return a key's hash: not 0, which is an empty slot's. Two keys may have one: whoever finds a place compares."""
    return hash(key) & _MASK or 1


class _Table:
    """The keys whose hashes begin alike. A slot is a hash and a place; both are 0 where it is empty."""

    __slots__ = ("count", "depth", "hashes", "map", "mask", "places")

    def __init__(self, size: int, depth: int) -> None:
        self.map = anonymous(size * _SLOT_BYTES, "a store's index")
        slots = memoryview(self.map).cast("Q")
        self.hashes, self.places = slots[:size], slots[size:]
        self.mask = size - 1
        self.count = 0
        self.depth = depth
        """How many bits their hashes have in common."""

    def add(self, name: int, place: int) -> None:
        hashes, mask = self.hashes, self.mask
        at = name & mask
        while hashes[at]:
            at = (at + 1) & mask
        hashes[at] = name
        self.places[at] = place
        self.count += 1

    def slot_of(self, name: int, place: int) -> int:
        places, mask = self.places, self.mask
        at = name & mask
        while places[at] != place:
            at = (at + 1) & mask
        return at

    def remove(self, name: int, place: int) -> None:
        hashes, places, mask = self.hashes, self.places, self.mask
        at = name & mask
        while places[at] != place:
            at = (at + 1) & mask
        hole = at
        while other := hashes[at := (at + 1) & mask]:
            if (at - other) & mask >= (at - hole) & mask:  # who would look there for it, too
                hashes[hole], places[hole] = other, places[at]
                hole = at
        hashes[hole] = places[hole] = 0
        self.count -= 1

    def items(self) -> Iterator[tuple[int, int]]:
        return ((name, place) for name, place in zip(self.hashes, self.places, strict=True) if name)

    def close(self) -> None:
        del self.hashes, self.places
        with suppress(BufferError):  # where someone looks at it still, it goes with them
            self.map.close()


class KeyIndex:
    """The places of all keys of one store. A place is any number above 0; ``is_there`` tells whether a record is there still."""

    def __init__(self, is_there: Callable[[int], bool]) -> None:
        self._is_there = is_there
        # All mutable state: the tables by the first bits of the hashes, where several bits may have one.
        self._tables: list[_Table] = []
        self._bits = 0
        self.count = 0
        self._gone = 0
        """Slots of records that are gone, beside those that count."""

    def find(self, name: int, key: bytes, is_of: Callable[[bytes, int], bool]) -> int:
        """Return the place of a hash whose record is there, and of a key; 0 for none."""
        if not self.count:
            return 0
        table = self._tables[name >> (NAME_BITS - self._bits)]
        hashes, mask = table.hashes, table.mask
        at = name & mask
        while found := hashes[at]:
            if found == name and is_of(key, place := table.places[at]):
                return place
            at = (at + 1) & mask
        return 0

    def places_of(self, name: int) -> list[int]:
        """Return the places of a hash."""
        if not self.count:
            return []
        table, found = self._tables[name >> (NAME_BITS - self._bits)], list[int]()
        hashes, mask = table.hashes, table.mask
        at = name & mask
        while other := hashes[at]:
            if other == name and self._is_there(place := table.places[at]):
                found.append(place)
            at = (at + 1) & mask
        return found

    def reserve(self, name: int) -> None:
        """Have a slot for one more. OutOfMemoryError, and all is as before, where the system refuses a map."""
        if not self._tables:
            self._tables = [_Table(_LEAST, 0)]
        table = self._tables[name >> (NAME_BITS - self._bits)]
        while 4 * (table.count + 1) > 3 * (table.mask + 1):
            size = table.mask + 1
            if self._gone and 2 * self._count(table) <= size:
                self._replace(table, self._filled(table, size))
            elif size < _MOST:
                self._replace(table, self._filled(table, 2 * size))
            else:
                self._split(table)
            table = self._tables[name >> (NAME_BITS - self._bits)]

    def add(self, name: int, place: int) -> None:
        """Add a place, for which a slot was reserved."""
        self._tables[name >> (NAME_BITS - self._bits)].add(name, place)
        self.count += 1

    def move(self, name: int, place: int, to: int) -> None:
        """Have another place in place of one that is there."""
        table = self._tables[name >> (NAME_BITS - self._bits)]
        table.places[table.slot_of(name, place)] = to

    def remove(self, name: int, place: int) -> None:
        """Remove a place that is there."""
        self._tables[name >> (NAME_BITS - self._bits)].remove(name, place)
        self.count -= 1

    def forget(self, count: int) -> None:
        """Note that so many records are gone at once: ``is_there`` tells which, whenever it is asked from now on."""
        self.count -= count
        self._gone += count

    def places(self) -> Iterator[int]:
        """Return all places. Nothing may change meanwhile."""
        for table in dict.fromkeys(self._tables):
            yield from self._places(table)

    def items(self) -> Iterator[tuple[int, int]]:
        """Return all hashes, with their places. Nothing may change meanwhile."""
        for table in dict.fromkeys(self._tables):
            yield from self._items(table)

    def near(self, number: int) -> int:
        """Return the place that is next to wherever a number leads: the same for the same number. There must be one."""
        while True:
            table = self._tables[number % len(self._tables)]
            places, at = table.places, number & table.mask
            for _ in range(table.mask + 1 if table.count else 0):
                if places[at] and self._is_there(places[at]):
                    return places[at]
                at = (at + 1) & table.mask
            number += 1

    def shrink(self) -> None:
        """Give back what tables have too much of; call it after what removes many. OutOfMemoryError: some is left."""
        tables = list(dict.fromkeys(self._tables))
        if not self.count:
            self._close()
        elif self._bits and 4 * self.count < _LEAST:
            whole = _Table(_LEAST, 0)
            for name, place in self.items():
                whole.add(name, place)
            self._close()
            self._tables, self.count = [whole], whole.count
        elif not self._gone or 6 * self.count <= sum(each.mask + 1 for each in tables):
            for table in tables:
                size, count = table.mask + 1, self._count(table)
                while size > _LEAST and 6 * count <= size:
                    size //= 2
                if size <= table.mask:
                    self._replace(table, self._filled(table, size))

    # ---- inside ----

    def _places(self, table: _Table) -> Iterator[int]:
        places = filter(None, table.places)
        return filter(self._is_there, places) if self._gone else places

    def _items(self, table: _Table) -> Iterator[tuple[int, int]]:
        items = table.items()
        return ((name, place) for name, place in items if self._is_there(place)) if self._gone else items

    def _count(self, table: _Table) -> int:
        return sum(1 for _ in self._places(table)) if self._gone else table.count

    def _filled(self, table: _Table, size: int) -> _Table:
        made = _Table(size, table.depth)
        for name, place in self._items(table):
            made.add(name, place)
        return made

    def _split(self, table: _Table) -> None:
        """Have two tables in place of a full one, told apart by the next bit of the hashes."""
        depth = table.depth + 1
        halves = _Table(_MOST, depth), _Table(_MOST, depth)
        for name, place in self._items(table):
            halves[name >> (NAME_BITS - depth) & 1].add(name, place)
        if depth > self._bits:
            self._tables = [each for each in self._tables for _ in (0, 1)]
            self._bits = depth
        behind = self._bits - depth
        self._tables = [
            halves[at >> behind & 1] if each is table else each for at, each in enumerate(self._tables)
        ]
        self._gone -= table.count - halves[0].count - halves[1].count
        table.close()

    def _replace(self, table: _Table, other: _Table) -> None:
        self._tables = [other if each is table else each for each in self._tables]
        self._gone -= table.count - other.count
        table.close()

    def _close(self) -> None:
        for table in dict.fromkeys(self._tables):
            table.close()
        self._tables, self._bits, self.count, self._gone = [], 0, 0, 0

"""Where the record of a key is: hashes in open-addressed tables, in anonymous maps, 16 bytes a slot, that shrink again.

A table has at most 16,384 slots; one that is full is two of the next bit of the hashes (extendible hashing, Fagin et al.,
TODS 1979), so that no change takes longer for there being many keys. Its owner locks.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from worker.stores.maps import anonymous

MASK = 2**64 - 1
_SLOT_BYTES = 16
_LEAST, _MOST = 256, 16_384
"""Slots of a table: a page, and what is made anew within some milliseconds."""


def hash_of(key: str) -> int:
    """Return a key's hash: not 0, which is an empty slot's. Two keys may have one: whoever finds a place compares."""
    return hash(key) & MASK or 1


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
    """The places of all keys of one store. A place is any number above 0."""

    def __init__(self) -> None:
        # All mutable state: the tables by the first bits of the hashes, where several bits may have one.
        self._tables: list[_Table] = []
        self._bits = 0
        self.count = 0

    def find(self, name: int, key: bytes, is_of: Callable[[bytes, int], bool]) -> int:
        """Return the place of a hash whose record is of a key; 0 for none."""
        if not self.count:
            return 0
        table = self._tables[name >> (64 - self._bits)]
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
        table, found = self._tables[name >> (64 - self._bits)], list[int]()
        at = name & table.mask
        while other := table.hashes[at]:
            if other == name:
                found.append(table.places[at])
            at = (at + 1) & table.mask
        return found

    def reserve(self, name: int) -> None:
        """Have a slot for one more. OutOfMemoryError, and all is as before, where the system refuses a map."""
        if not self._tables:
            self._tables = [_Table(_LEAST, 0)]
        table = self._tables[name >> (64 - self._bits)]
        while 4 * (table.count + 1) > 3 * (table.mask + 1):
            if table.mask + 1 < _MOST:
                self._replace(table, _filled(table, 2 * (table.mask + 1)))
            else:
                self._split(table)
            table = self._tables[name >> (64 - self._bits)]

    def add(self, name: int, place: int) -> None:
        """Add a place, for which a slot was reserved."""
        self._tables[name >> (64 - self._bits)].add(name, place)
        self.count += 1

    def move(self, name: int, place: int, to: int) -> None:
        """Have another place in place of one that is there."""
        table = self._tables[name >> (64 - self._bits)]
        table.places[table.slot_of(name, place)] = to

    def remove(self, name: int, place: int) -> None:
        """Remove a place that is there."""
        self._tables[name >> (64 - self._bits)].remove(name, place)
        self.count -= 1

    def remove_all(self, going: Iterable[tuple[int, int]]) -> None:
        """Remove places that are there, with their hashes."""
        tables, behind = self._tables, 64 - self._bits
        for name, place in going:
            tables[name >> behind].remove(name, place)
            self.count -= 1

    def places(self) -> Iterator[int]:
        """Return all places. Nothing may change meanwhile."""
        for table in dict.fromkeys(self._tables):
            yield from filter(None, table.places)

    def items(self) -> Iterator[tuple[int, int]]:
        """Return all hashes, with their places. Nothing may change meanwhile."""
        for table in dict.fromkeys(self._tables):
            yield from table.items()

    def near(self, number: int) -> int:
        """Return the place that is next to wherever a number leads: the same for the same number. There must be one."""
        while True:
            table = self._tables[number % len(self._tables)]
            places, at = table.places, number & table.mask
            for _ in range(table.mask + 1 if table.count else 0):
                if places[at]:
                    return places[at]
                at = (at + 1) & table.mask
            number += 1

    def shrink(self) -> None:
        """Give back what tables have too much of; call it after what removes many. OutOfMemoryError: some is left."""
        if not self.count:
            self._close()
        elif self._bits and 4 * self.count < _LEAST:
            whole = _Table(_LEAST, 0)
            for table in dict.fromkeys(self._tables):
                for name, place in table.items():
                    whole.add(name, place)
            self._close()
            self._tables, self.count = [whole], whole.count
        else:
            for table in dict.fromkeys(self._tables):
                size = table.mask + 1
                while size > _LEAST and 6 * table.count <= size:
                    size //= 2
                if size <= table.mask:
                    self._replace(table, _filled(table, size))

    # ---- inside ----

    def _split(self, table: _Table) -> None:
        """Have two tables in place of a full one, told apart by the next bit of the hashes."""
        depth = table.depth + 1
        halves = _Table(_MOST, depth), _Table(_MOST, depth)
        for name, place in table.items():
            halves[name >> (64 - depth) & 1].add(name, place)
        if depth > self._bits:
            self._tables = [each for each in self._tables for _ in (0, 1)]
            self._bits = depth
        behind = self._bits - depth
        self._tables = [
            halves[at >> behind & 1] if each is table else each for at, each in enumerate(self._tables)
        ]
        table.close()

    def _replace(self, table: _Table, other: _Table) -> None:
        self._tables = [other if each is table else each for each in self._tables]
        table.close()

    def _close(self) -> None:
        for table in dict.fromkeys(self._tables):
            table.close()
        self._tables, self._bits, self.count = [], 0, 0


def _filled(table: _Table, size: int) -> _Table:
    made = _Table(size, table.depth)
    for name, place in table.items():
        made.add(name, place)
    return made

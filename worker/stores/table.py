"""The entries of one store by key, tag and end of time: all that is known of them lies in their records. Its owner locks."""

from array import array
from collections.abc import Iterable, Iterator
from itertools import islice, takewhile

from worker.stores.base import Choice
from worker.stores.due import Due
from worker.stores.entry import LARGE_BYTES, NEVER, Entry, key_bytes, key_text
from worker.stores.key_index import KeyIndex, hash_of
from worker.stores.key_order import KeyOrder
from worker.stores.segment import Band
from worker.stores.segments import SegmentMemory


class _Tagged:
    """Hashes of the entries that had a tag, in the order in which they came; some may be gone, or be here twice."""

    __slots__ = ("count", "names")

    def __init__(self) -> None:
        self.names = array("Q")
        self.count = 0


class EntryTable:
    """All entries of a store, wherever their bytes are."""

    def __init__(self, memory: SegmentMemory) -> None:
        self._memory = memory
        self.number = memory.enter(self)
        # All mutable state, beside the records.
        self._index = KeyIndex(memory.is_there)
        self._order = KeyOrder(self)
        self._tagged: dict[str, _Tagged] = {}
        self._due = Due()
        self._serial = 0
        self.total_bytes = 0
        """In memory and on disk."""
        self.held_bytes = 0
        """In memory."""
        self.large = 0
        """How many are large."""

    def __len__(self) -> int:
        return self._index.count

    def __iter__(self) -> Iterator[Entry]:
        """Return all entries, as they are now. Nothing may change meanwhile."""
        return map(self._memory.entry, self._index.places())

    def __contains__(self, key: str) -> bool:
        return self.place(key) > 0

    def place(self, key: str) -> int:
        """Return where the record of a key is; 0 for none."""
        return self._index.find(hash_of(key), key_bytes(key), self._memory.is_of)

    def get(self, key: str) -> Entry | None:
        """Return the entry of a key."""
        place = self.place(key)
        return self._memory.entry(place) if place else None

    def same(self, entry: Entry) -> Entry | None:
        """Return an entry that was looked at before, as it is now; None where it is gone, or another."""
        found = self.get(entry.key)
        return found if found is not None and found.serial == entry.serial else None

    def of_serial(self, name: int, serial: int) -> Entry | None:
        """Return an entry by its hash and its serial."""
        return next((each for each in self._of_hash(name) if each.serial == serial), None)

    def new(self, entry: Entry) -> None:
        """Give an entry what tells it from all others. OutOfMemoryError where there will be no room for it in the tables."""
        self._index.reserve(entry.hash)
        self._serial += 1
        entry.serial, entry.store = self._serial, self.number

    def add(self, entry: Entry) -> None:
        """Add an entry whose record was written; there is none of its key, and ``new`` was called for it."""
        self._index.reserve(entry.hash)
        self._index.add(entry.hash, entry.place)
        self._order.add(entry.hash)
        self._counted(entry, 1)
        for tag in entry.tags:
            tagged = self._tagged.setdefault(tag, _Tagged())
            tagged.names.append(entry.hash)
            tagged.count += 1
        if entry.expires_ns != NEVER:
            self._due.add(entry.hash, entry.expires_ns)

    def remove(self, entry: Entry) -> None:
        """Remove an entry that is there, and its record."""
        self.forget(entry)
        self._memory.free(entry)

    def forget(self, entry: Entry) -> None:
        """Remove an entry that is there, but for its record."""
        self._index.remove(entry.hash, entry.place)
        self._order.remove()
        self._counted(entry, -1)
        for tag in entry.tags:
            tagged = self._tagged[tag]
            tagged.count -= 1
            if not tagged.count:
                del self._tagged[tag]
            elif len(tagged.names) > 2 * tagged.count + 64:
                tagged.names = array("Q", [each.hash for each in self._with(tag)])

    def forget_many(self, count: int, size: int) -> None:
        """Forget entries in memory alone that have no tags and are not large, and whose segments go: how many, and what they count for."""
        self._index.forget(count)
        self._order.remove(count)
        self.total_bytes -= size
        self.held_bytes -= size

    def rewrite(
        self, entry: Entry, data: bytes | bytearray | None, band: Band, *, alone: bool = False
    ) -> None:
        """Write an entry's record anew, with its content or without. OutOfMemoryError, and all is as before."""
        before, held = entry.place, entry.held_bytes
        self._memory.rewrite(entry, data, band, alone=alone)
        self._index.move(entry.hash, before, entry.place)
        self.held_bytes += entry.held_bytes - held

    def moved(self, name: int, place: int, to: int) -> None:
        """Note that a record lies elsewhere from now on."""
        self._index.move(name, place, to)

    def chosen(self, choice: Choice) -> list[Entry]:
        """Return the entries that are chosen."""
        if choice.key is not None:
            found = self.get(choice.key)
            return [] if found is None else [found]
        if choice.tag is not None:
            return list(self._with(choice.tag))
        prefix = key_bytes(choice.prefix or "")
        return list(self._of_keys(takewhile(lambda key: key.startswith(prefix), self._order.since(prefix))))

    def any_ended(self, now_ns: int) -> bool:
        """Tell whether the time of any entry may be over."""
        return self._due.next_ns is not None and self._due.next_ns <= now_ns

    def having(self, tags: tuple[str, ...]) -> list[Entry]:
        """Return the entries that have all of these tags."""
        if not tags:
            return list(self)
        rarest = min(tags, key=self._how_many)
        return [each for each in self._with(rarest) if set(tags) <= set(each.tags)]

    def page(self, after: str | None, limit: int, now_ns: int) -> list[Entry]:
        """Return the entries whose keys come next after that one, by key, but those that ended."""
        begin = b"" if after is None else key_bytes(after) + b"\0"  # no key is between these two
        there = self._of_keys(self._order.since(begin))
        return list(islice((each for each in there if not each.ended(now_ns)), limit))

    def ended(self, now_ns: int) -> list[Entry]:
        """Return the entries whose time is over. They are told once: remove them."""
        found: dict[str, Entry] = {}
        for name in dict.fromkeys(self._due.pop(now_ns)):
            for entry in self._of_hash(name):
                if entry.ended(now_ns):
                    found[entry.key] = entry
                elif entry.expires_ns != NEVER:  # it was used meanwhile, or is another one
                    self._due.add(name, entry.expires_ns)
        return list(found.values())

    def put_off(self, entries: Iterable[Entry]) -> None:
        """Have ended entries be told again: they could not be removed."""
        for entry in entries:
            self._due.add(entry.hash, entry.expires_ns)

    def near(self, number: int) -> int:
        """Return the place of an entry that a number leads to; there must be one."""
        return self._index.near(number)

    def places(self) -> Iterator[int]:
        """Return the places of all entries. Nothing may change meanwhile."""
        return self._index.places()

    def pairs(self) -> Iterator[tuple[bytes, int]]:
        """Return all keys, as they are kept, with their hashes. Nothing may change meanwhile."""
        return ((self._memory.key(place), name) for name, place in self._index.items())

    def places_of(self, name: int) -> list[int]:
        """Return where the records of a hash are: one, but for chance."""
        return self._index.places_of(name)

    def keys_of(self, name: int) -> list[bytes]:
        """Return the keys of a hash, as they are kept."""
        return [self._memory.key(place) for place in self._index.places_of(name)]

    def shrink(self) -> None:
        """Give back what the index has too much of. OutOfMemoryError: some is left."""
        self._index.shrink()

    def forget_order(self) -> None:
        """Give back the order of the keys: it is made again for who lists them next."""
        self._order.drop()

    def close(self) -> None:
        """Be no owner of records any more; there are none."""
        self._memory.leave(self.number)

    # ---- inside ----

    def _counted(self, entry: Entry, by: int) -> None:
        self.total_bytes += by * entry.entry_bytes
        self.held_bytes += by * entry.held_bytes
        if entry.content_bytes > LARGE_BYTES:
            self.large += by

    def _of_keys(self, keys: Iterable[bytes]) -> Iterator[Entry]:
        return filter(None, (self.get(key_text(key)) for key in keys))

    def _of_hash(self, name: int) -> list[Entry]:
        """Return the entries of a hash: one, but for chance."""
        return [self._memory.entry(place) for place in self._index.places_of(name)]

    def _with(self, tag: str) -> Iterator[Entry]:
        names = self._tagged[tag].names if tag in self._tagged else ()
        for name in dict.fromkeys(names):
            yield from (each for each in self._of_hash(name) if tag in each.tags)

    def _how_many(self, tag: str) -> int:
        return self._tagged[tag].count if tag in self._tagged else 0

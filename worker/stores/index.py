"""What one scope keeps under one name: entries by key, with a bound, lifetimes, tags and prices; in a file, too, if asked.

A store with a file writes through it, so that any entry's bytes can leave memory at once. Who changes a store goes one
after the other (``_changing``), and does what is to be done on disk before anything in memory is another: what fails there
has changed nothing. The kind's lock guards all tables, and is never held across that.
"""

from collections.abc import Callable, Iterable
from math import frexp
from typing import TYPE_CHECKING

from protocol.store_results import StoreFigures
from worker.core.clock import NS_PER_MS
from worker.core.sure_lock import SureLock
from worker.plugins import (
    InvalidRequestError,
    LimitExceededError,
    Offer,
    OutOfMemoryError,
    PricedEntries,
    StoreNotFoundError,
    UnsupportedError,
    Usage,
)
from worker.stores.base import (
    Choice,
    Cleared,
    Content,
    Deleted,
    EntryFile,
    Found,
    Hit,
    Item,
    Options,
    Page,
    Put,
    Question,
)
from worker.stores.entry import Entry, about_bytes, entry_of, listed, row_of
from worker.stores.table import EntryTable

if TYPE_CHECKING:
    from worker.stores.entries import EntryKind

MIB = 2**20
MISSED_MAX = 1024
_GROUPS, _MIDDLE = 8, 10
"""Octaves of milliseconds a byte whose entries lie apart, to both sides of one a KiB."""
LARGE_BYTES = MIB
"""Above this, copying keeps others waiting."""


class EntryStore:
    """A store of entries."""

    def __init__(self, kind: "EntryKind", name: str, options: Options, file: EntryFile | None) -> None:
        self._kind = kind
        self._name = name
        self._memory = kind.memory
        self._file = file
        self._changing = SureLock()
        # All mutable state, guarded by the kind's lock.
        self._options = options
        self._table = EntryTable()
        self._priced = PricedEntries()
        """All entries, at what making them again costs: of these the bound takes."""
        self._warm = self._priced if file is None else PricedEntries()
        """Those in memory, at what having them there again costs: of these the kind takes when memory is short."""
        self.held_bytes = 0
        """In memory."""
        self._large = 0
        self._missed: dict[str, None] = {}
        """Keys that were asked for and not there, of late: putting them is no use of their own."""
        self._hits = self._misses = self._evictions = 0
        self._saved_ms = 0.0
        self._closed = False
        """Whether it was closed: who found it open before may be late."""

    @property
    def limit_bytes(self) -> int:
        """The most that it holds."""
        return self._options.max_bytes or self._kind.default_bytes

    @property
    def lasting(self) -> bool:
        """Whether its file is there after a restart."""
        return self._file is not None and self._file.lasting

    @property
    def max_entries(self) -> int | None:
        """The most entries that it has; None for any number."""
        return self._options.max_entries or self._kind.default_entries

    @property
    def on_disk(self) -> bool:
        """Whether what leaves its memory is still there."""
        return self._file is not None

    @property
    def quick(self) -> bool:
        """Whether its entries are small, and none is on disk."""
        return self._file is None and not self._large

    def check(self, content_bytes: int) -> None:
        """Refuse an entry that is larger than the store may be. LimitExceededError."""
        if content_bytes > self.limit_bytes:
            message = f"the entry takes {content_bytes} bytes, and the store may hold {self.limit_bytes}"
            message += ": open it with a larger max_bytes"
            raise LimitExceededError(message, entry_bytes=content_bytes, limit_bytes=self.limit_bytes)

    def configure(self, options: Options) -> None:
        """Take over the options that are given; what is above a lower bound goes."""
        options = self._kind.resolved(options)
        if options.persist is not None and options.persist is not self.lasting:
            message = "a store that is open stays where it is: close it first"
            raise InvalidRequestError.at("data.options.persist", message)
        with self._changing:
            self._check_open()
            merged = options.over(self._options)
            if self._file is not None:
                self._file.set_options(merged)
            with self._kind.lock:
                self._options = merged
                going = self._victims(0, None)
            self._evictions += self._delete(going)

    def load(self) -> None:
        """Take over what is in its file; the bytes stay there until they are asked for."""
        assert self._file is not None  # noqa: S101 - else there is nothing to load
        rows = self._file.rows()
        with self._kind.lock:
            behind = self._kind.behind_ns()
            for row in rows:
                beside = self._beside_bytes(row.vector_bytes)
                size = row.content_bytes + about_bytes(row.key, row.tags) + beside
                self._add(entry_of(row, size, beside, behind))

    # ---- entries ----

    def put(self, item: Item) -> Put:
        """Store an entry. The cheapest of the others go first; if it still fails, the one of that key stays."""
        if item.vector is not None and not self._kind.has_vectors:
            raise InvalidRequestError.at("data.vector", f"a store of kind {self._kind.word} keeps none")
        if item.tokens is not None:
            raise InvalidRequestError.at("data.tokens", f"a store of kind {self._kind.word} keeps none")
        data, vector = item.content.data, self._vector_bytes(item)
        beside = self._beside_bytes(0 if vector is None else len(vector))
        size = len(data) + about_bytes(item.key, item.tags) + beside
        self.check(size)
        with self._changing:
            self._check_open()
            self._end()
            with self._kind.lock:
                now, old = self._kind.now_ns(), self._table.entries.get(item.key)
                refused = self._refusal(size, old)
                if refused is not None:
                    return Put(size, 0, refused)
                ttl, cost = self._ttl_ns(item), item.cost_ms or 0.0
                entry = Entry(item.key, item.content.form, len(data), size, now, ttl, cost, item.tags, beside)
                victims = self._victims(size, old)
                undo = self._take_vector(item.key, vector)
                row = row_of(entry, data, vector, self._kind.behind_ns())
            try:
                if self._file is not None:
                    self._file.change([row], [each.key for each in victims])
                with self._kind.lock:
                    return Put(size, self._take(entry, data, victims))
            except BaseException as error:
                with self._kind.lock:
                    undo()
                if isinstance(error, OutOfMemoryError) and self._file is not None:
                    return Put(size, 0, error.message)
                raise

    def get(self, key: str) -> Found | None:
        """Return a copy of an entry."""
        with self._kind.lock:
            now = self._kind.now_ns()
            entry = self._table.entries.get(key)
            if entry is None or entry.ended(now):
                self._misses += 1
                self._miss(key, now)
                return None
            self._use(entry, now)
            content = self._warm_content(entry)
        content = content or self._read(entry)
        return None if content is None else Found(content, (now - entry.put_ns) // NS_PER_MS)

    def search(self, _: Question) -> tuple[Hit, ...]:
        """Refuse: entries are found by their keys."""
        message = (
            f"a store of kind {self._kind.word} is not searched: it has keys, tags and prefixes;"
            " those of kinds vectors and documents are, by a vector, and those of kinds preferences and documents, by a text"
        )
        raise UnsupportedError(message, store=self._name, kind=self._kind.word)

    def prompt(self, _: Iterable[str]) -> str | None:
        """Return None: its entries are no text for a model."""
        return None

    def page(self, after: str | None, limit: int) -> Page:
        """Return entries in the order of their keys."""
        with self._kind.lock:
            now = self._kind.now_ns()
            found = self._table.page(after, limit + 1, now)
            rows = tuple(listed(each, now) for each in found[:limit])
        return Page(rows, rows[-1].key if len(found) > limit else None)

    def delete(self, choice: Choice) -> Deleted:
        """Delete entries, in memory and on disk. OutOfMemoryError where the disk takes no more: nothing was deleted."""
        with self._changing:
            self._check_open()
            with self._kind.lock:
                going = self._table.chosen(choice)
            self._delete(going)
        return Deleted(len(going), sum(each.entry_bytes for each in going))

    def clear(self) -> Cleared:
        """Delete all entries."""
        with self._changing:
            self._check_open()
            if self._file is not None:
                self._file.clear()
            return self._forget_all()

    def close(self) -> Cleared:
        """Give the memory back; what is persistent stays on disk."""
        with self._changing:
            self._closed = True
            if self._file is not None:
                self._file.close()
            cleared = self._forget_all()
        self._kind.forget(self)
        return cleared

    def figures(self) -> StoreFigures:
        """Return what it holds and saves."""
        with self._kind.lock:
            now = self._kind.now_ns()
            offers = self.offers(MIB, now)
            size = sum(each.bytes for each in offers)
            return StoreFigures(
                store=self._name,
                kind=self._kind.word,
                entry_count=sum(not each.ended(now) for each in self._table.entries.values()),
                held_bytes=self.held_bytes,
                limit_bytes=self.limit_bytes,
                hits=self._hits,
                misses=self._misses,
                saved_ms=self._saved_ms,
                evictions=self._evictions,
                price_ms_per_mib=round(sum(o.cost_ms for o in offers) * MIB / size, 6) if size else None,
            )

    # ---- for its kind ----

    @property
    def usage(self) -> Usage:
        """What its entries saved. With the kind's lock."""
        return Usage(self._hits, self._misses, self._saved_ms)

    def tend(self) -> None:
        """Remove what has ended, and let go of a file that is not used."""
        with self._changing:
            if self._closed:
                return
            self._end()
        if self._file is not None:
            self._file.rest()

    def offers(self, need_bytes: int, now_ns: int) -> tuple[Offer, ...]:
        """Return entries that are cheap to lose from memory; their tags are their keys. With the kind's lock."""
        return self._warm.offers(need_bytes, now_ns)

    @property
    def count(self) -> int:
        """How many entries there are. With the kind's lock."""
        return len(self._table.entries)

    @property
    def warm_bytes(self) -> int:
        """What of it is in memory and on disk. With the kind's lock."""
        return 0 if self._file is None else self._warm.held_bytes

    def entry(self, key: str) -> Entry | None:
        """Return an entry that is there. With the kind's lock."""
        return self._table.entries.get(key)

    def give_up(self, key: str) -> bool:
        """Have an entry's bytes leave memory, and the entry where it has no file. False where none are. With the lock."""
        entry = self._table.entries.get(key)
        if entry is None or entry.ref is None:
            return False
        if self._file is None:
            self._evictions += 1
            self._remove(entry)
        else:
            self._cool(entry)
        return True

    # ---- what a kind may do otherwise, with the kind's lock ----

    def _refusal(self, size: int, _replaced: Entry | None) -> str | None:
        """Return why an entry of a size can't be taken now."""
        return None if self._file is not None else self._kind.refusal(size)

    def _beside_bytes(self, _vector_bytes: int) -> int:
        """Return what is kept of an entry with such a vector in ``_take_vector``."""
        return 0

    def _vector_bytes(self, _: Item) -> bytes | None:
        """Return an entry's vector as it is on disk; InvalidRequestError for one that can't be. Without the lock."""
        return None

    def _take_vector(self, _key: str, _vector: bytes | None) -> Callable[[], None]:
        """Have an entry found by its vector. Returns what undoes that. What it raises leaves the store as it was."""
        return _nothing

    def _lose_vector(self, _key: str) -> None:
        """Have an entry that goes not be found by its vector any more."""

    @property
    def _mapped_bytes(self) -> int:
        """What the system has given for entries of all scopes, and for this one's vectors."""
        return self._memory.held_bytes

    # ---- inside ----

    def _check_open(self) -> None:
        """Refuse to change what was closed, or deleted with its scope, meanwhile. While changing."""
        if self._closed:
            message = f"store {self._name!r} was closed meanwhile, or its scope deleted: store.open opens it"
            raise StoreNotFoundError(message, store=self._name)

    def _end(self) -> None:
        """Remove what has ended; what can't be removed now, is later, and not found meanwhile. While changing."""
        with self._kind.lock:
            ended = self._table.ended(self._kind.now_ns())
        try:
            self._delete(ended)
        except BaseException as error:
            with self._kind.lock:
                self._table.put_off(ended)
            if not isinstance(error, OutOfMemoryError):
                raise

    def _read(self, entry: Entry) -> Content | None:
        """Read an entry from disk, and have it in memory where there is room. None where it went meanwhile."""
        if self._file is None:  # it went meanwhile
            return None
        content = self._file.read(entry.key)
        if content is not None:
            with self._kind.lock:
                if self._table.entries.get(entry.key) is entry and entry.ref is None:
                    self._heat(entry, content.data)
        return content

    def _contents(self, entries: list[Entry]) -> list[Content | None]:
        """Return copies of entries' contents; None for those that went meanwhile. Without the lock."""
        with self._kind.lock:
            warm = [self._warm_content(each) for each in entries]
        return [found or self._read(each) for found, each in zip(warm, entries, strict=True)]

    def _delete(self, going: list[Entry]) -> int:
        """Delete entries, on disk first. Returns how many."""
        if going and self._file is not None:
            self._file.change((), [each.key for each in going])
        with self._kind.lock:
            for each in going:
                if self._table.entries.get(each.key) is each:  # else memory was short meanwhile
                    self._remove(each)
            self._memory.tidy()
        return len(going)

    def _forget_all(self) -> Cleared:
        with self._kind.lock:
            cleared, held = self.held_bytes, self._mapped_bytes
            for entry in list(self._table.entries.values()):
                self._remove(entry)
            self._memory.squeeze()
            return Cleared(cleared, held - self._mapped_bytes)

    # ---- inside, with the kind's lock ----

    def _take(self, entry: Entry, data: bytes | bytearray, victims: list[Entry]) -> int:
        """Do in memory what was done on disk. Returns how many others went."""
        for each in victims:
            if self._table.entries.get(each.key) is each:  # else memory was short meanwhile
                self._remove(each)
        self._evictions += len(victims)
        evicted = len(victims) + self._kind.make_room(entry.entry_bytes, self._table.entries.get(entry.key))
        if self._file is None or self._kind.refusal(entry.entry_bytes) is None:
            try:
                entry.ref = self._memory.put(data, self._group(entry))
            except OutOfMemoryError:
                if self._file is None:
                    raise
        old = self._table.entries.get(entry.key)
        if old is not None:
            self._drop(old)
        self._add(entry)
        if self._missed.pop(entry.key, 0) is not None:
            self._priced.used(entry.key, entry.put_ns)
        self._memory.tidy()
        return evicted

    def _group(self, entry: Entry) -> int:
        """Return which entries it lies beside: those that go at about the same price a byte."""
        if self._file is not None:  # reading back costs about the same for all
            return 0
        return max(-_GROUPS, min(_GROUPS, frexp(entry.cost_ms / entry.entry_bytes)[1] + _MIDDLE))

    def _warm_content(self, entry: Entry) -> Content | None:
        """Return a copy of an entry's content; None where it is on disk alone, or gone."""
        if entry.ref is None or self._table.entries.get(entry.key) is not entry:
            return None
        return Content(self._memory.get(entry.ref), entry.form)

    def _use(self, entry: Entry, now_ns: int) -> None:
        self._hits += 1
        self._saved_ms += entry.cost_ms
        entry.used_ns = now_ns
        self._priced.used(entry.key, now_ns)
        if self._file is not None:
            self._warm.used(entry.key, now_ns)

    def _miss(self, key: str, now_ns: int) -> None:
        self._priced.used(key, now_ns)
        if len(self._missed) >= MISSED_MAX:
            del self._missed[next(iter(self._missed))]
        self._missed[key] = None

    def _victims(self, size: int, replaced: Entry | None) -> list[Entry]:
        """Return the cheapest entries that have to go so that so much fits within the bounds, beside what is replaced."""
        spared = 0 if replaced is None else replaced.entry_bytes
        most, count = self.max_entries, len(self._table.entries)
        over = self._table.total_bytes - spared + size - self.limit_bytes
        many = 0 if most is None else count - (replaced is not None) + (size > 0) - most
        victims: list[Entry] = []
        if over <= 0 and many <= 0:
            return victims
        for each in self._cheapest(self._table.total_bytes if many > 1 else max(over, 1) + spared):
            if each is not replaced:
                victims.append(each)
                over, many = over - each.entry_bytes, many - 1
                if over <= 0 and many <= 0:
                    break
        return victims

    def _cheapest(self, need_bytes: int) -> Iterable[Entry]:
        """Return entries that together have so many bytes, or all, those that go first before the others."""
        offers = self._priced.offers(need_bytes, self._kind.now_ns())
        return (self._table.entries[str(each.tag)] for each in offers)

    def _add(self, entry: Entry) -> None:
        self._table.add(entry)
        self._priced.add(entry.key, entry.entry_bytes, entry.cost_ms)
        self._hold(entry.held_bytes)
        self._large += entry.content_bytes > LARGE_BYTES
        if entry.ref is not None:
            self._offer(entry)

    def _remove(self, entry: Entry) -> None:
        self._lose_vector(entry.key)
        self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        self._hold(-entry.held_bytes)
        if entry.ref is not None:
            self._memory.free(entry.ref)
            entry.ref = None
            if self._file is not None:
                self._warm.remove(entry.key)
        self._table.remove(entry)
        self._priced.remove(entry.key)
        self._large -= entry.content_bytes > LARGE_BYTES

    def _heat(self, entry: Entry, data: bytes | bytearray) -> None:
        """Have bytes that were read in memory, where that has room for them."""
        if self._kind.refusal(entry.content_bytes) is not None:
            return
        self._kind.make_room(entry.content_bytes, None)
        try:
            entry.ref = self._memory.put(data)
        except OutOfMemoryError:
            return
        self._hold(entry.content_bytes)
        self._offer(entry)

    def _cool(self, entry: Entry) -> None:
        """Have an entry's bytes in memory no more."""
        assert entry.ref is not None  # noqa: S101 - as its callers know
        self._memory.free(entry.ref)
        entry.ref = None
        self._hold(-entry.content_bytes)
        if self._file is not None:
            self._warm.remove(entry.key)

    def _offer(self, entry: Entry) -> None:
        if self._file is not None:
            self._warm.add(entry.key, entry.content_bytes, self._file.read_ms)

    def _hold(self, change: int) -> None:
        self.held_bytes += change
        self._kind.held_bytes += change

    def _ttl_ns(self, item: Item) -> int | None:
        said = (item.ttl_ms, self._options.ttl_ms, self._kind.default_ttl_ms)
        ttl = next((each for each in said if each is not None), None)
        return None if ttl is None else ttl * NS_PER_MS

    def _having(self, tags: tuple[str, ...]) -> list[Entry]:
        """Return the entries that have all of these tags, but those that ended."""
        now = self._kind.now_ns()
        return [each for each in self._table.having(tags) if not each.ended(now)]


def _nothing() -> None:
    pass

"""What one scope keeps under one name: entries by key, with a bound, lifetimes, tags and prices; in a file, too, if asked.

A store with a file writes through it, so that any entry's bytes can leave memory at once. Who changes a store goes one
after the other (``_changing``), and does what is to be done on disk before anything in memory is another: what fails there
has changed nothing. The kind's lock guards all that is in memory (``held.py``), and is never held across that.
"""

from collections.abc import Callable, Iterable

from protocol.store_results import StoreFigures
from worker.core.clock import NS_PER_MS
from worker.core.sure_lock import SureLock
from worker.plugins import (
    InvalidRequestError,
    LimitExceededError,
    OutOfMemoryError,
    StoreNotFoundError,
    UnsupportedError,
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
    Row,
)
from worker.stores.entry import WARM, Entry, about_bytes, entry_of, listed, row_of
from worker.stores.held import HeldEntries
from worker.stores.owner import Owner


class EntryStore(HeldEntries):
    """A store of entries."""

    def __init__(self, kind: Owner, name: str, options: Options, file: EntryFile | None) -> None:
        super().__init__(kind, options, file)
        self._name = name
        self._changing = SureLock()
        # Mutable state besides, written while changing.
        self._closed = False
        """Whether it was closed: who found it open before may be late."""

    @property
    def lasting(self) -> bool:
        """Whether its file is there after a restart."""
        return self._file is not None and self._file.lasting

    @property
    def quick(self) -> bool:
        """Whether its entries are small, and none is on disk."""
        return self._file is None and not self._table.large

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
                entry = entry_of(row, self._beside_bytes(row.vector_bytes), behind)
                self._table.new(entry)
                self._loaded(entry)
                self._memory.put(entry, None, None)
                self._add(entry)

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
                now, old = self._kind.now_ns(), self._table.get(item.key)
                refused = self._refusal(size, old)
                if refused is not None:
                    return Put(size, 0, refused)
                ttl, cost = self._ttl_ns(item), item.cost_ms or 0.0
                entry = Entry(item.key, item.content.form, len(data), now, ttl, cost, item.tags, beside)
                victims = self._victims(size, old)
                evicted = self._prepare(entry, data, old)
                try:
                    undo = self._take_vector(item.key, vector)
                except BaseException:
                    self._unprepare(entry)
                    raise
                row = None if self._file is None else row_of(entry, data, vector, self._kind.behind_ns())
            try:
                if row is not None:
                    self._write(row, victims, entry, data)
                with self._kind.lock:
                    return Put(size, evicted + self._take(entry, data, victims, old))
            except BaseException as error:
                with self._kind.lock:
                    undo()
                    self._unprepare(entry)
                if isinstance(error, OutOfMemoryError) and self._file is not None:
                    return Put(size, 0, error.message)
                raise

    def get(self, key: str) -> Found | None:
        """Return a copy of an entry."""
        kind = self._kind
        kind.lock.acquire()  # a with block takes half a microsecond more, and this one is on the way of every get
        try:
            now = kind.now_ns()
            place = self._table.place(key)
            head = self._memory.head(place) if place else None
            if head is None or head[4] <= now:
                self._miss(key, now)
                return None
            if head[13] >= WARM and not self.renews:
                return Found(self._used(place, head, now), (now - head[2]) // NS_PER_MS)
            entry = self._memory.entry(place)
            self._use(entry, now)
            content = self._warm_content(entry)
        finally:
            kind.lock.release()
        content = content or self._read(entry)
        return None if content is None else Found(content, (now - entry.put_ns) // NS_PER_MS)

    def search(self, _: Question) -> tuple[Hit, ...]:
        """Refuse: entries are found by their keys."""
        message = (
            f"a store of kind {self._kind.word} is not searched: it has keys, tags and prefixes;"
            " those of kinds vectors and documents are, by a vector, those of kinds preferences and documents, by a text,"
            " and those of kind kv, by tokens"
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
            return StoreFigures(
                store=self._name,
                kind=self._kind.word,
                entry_count=self._count(self._kind.now_ns()),
                held_bytes=self.held_bytes,
                limit_bytes=self.limit_bytes,
                hits=self._hits,
                misses=self._misses,
                saved_ms=self._saved_ms,
                evictions=self._evictions,
                price_ms_per_mib=self._kind.price_ms_per_mib(self),
                overhead_bytes=self.overhead_bytes,
            )

    def tend(self) -> None:
        """Remove what has ended, and let go of a file that is not used."""
        with self._changing:
            if self._closed:
                return
            self._end()
        if self._file is not None:
            self._file.rest()

    # ---- what a kind may do otherwise ----

    def _vector_bytes(self, _: Item) -> bytes | None:
        """Return an entry's vector as it is on disk; InvalidRequestError for one that can't be. Without the lock."""
        return None

    def _beside_bytes(self, _vector_bytes: int) -> int:
        """Return what is kept of an entry with such a vector in ``_take_vector``."""
        return 0

    def _take_vector(self, _key: str, _vector: bytes | None) -> Callable[[], None]:
        """Have an entry found by its vector. Returns what undoes that. What it raises leaves the store as it was."""
        return _nothing

    # ---- inside ----

    def _check_open(self) -> None:
        """Refuse to change what was closed, or deleted with its scope, meanwhile. While changing."""
        if self._closed:
            message = f"store {self._name!r} was closed meanwhile, or its scope deleted: store.open opens it"
            raise StoreNotFoundError(message, store=self._name)

    def _write(self, row: Row, victims: list[Entry], entry: Entry, data: bytes | bytearray) -> None:
        """Have an entry on disk, and those that go for it not. OutOfMemoryError, unless it may be in memory alone."""
        assert self._file is not None  # noqa: S101 - else there is no row
        try:
            self._file.change([row], [each.key for each in victims])
        except OutOfMemoryError:
            with self._kind.lock:
                stays = self._stay(entry, data)
            if not stays:
                raise

    def _end(self) -> None:
        """Remove what has ended; what can't be removed now, is later, and not found meanwhile. While changing."""
        with self._kind.lock:
            ended = self._table.ended(self._kind.now_ns())
        if not ended:
            return
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
                there = self._table.same(entry)
                if there is not None and not there.is_warm:
                    self._heat(there, content.data)
        return content

    def _contents(self, entries: list[Entry]) -> list[Content | None]:
        """Return copies of entries' contents; None for those that went meanwhile. Without the lock."""
        with self._kind.lock:
            there = [self._table.same(each) for each in entries]
            warm = [None if each is None else self._warm_content(each) for each in there]
        return [found or self._read(each) for found, each in zip(warm, entries, strict=True)]

    def _hits_of(self, nearest: Iterable[tuple[str, float]]) -> tuple[Hit, ...]:
        """Return what was found, with its contents, but what went meanwhile; and count it. Without the lock."""
        with self._kind.lock:
            there = [(self._table.get(key), score) for key, score in nearest]
        entries = [(entry, score) for entry, score in there if entry is not None]
        contents = self._contents([each for each, _ in entries])
        hits = tuple(
            Hit(entry.key, score, content)
            for (entry, score), content in zip(entries, contents, strict=True)
            if content is not None
        )
        with self._kind.lock:
            self._hits, self._misses = self._hits + bool(hits), self._misses + (not hits)
        return hits

    def _delete(self, going: list[Entry]) -> int:
        """Delete entries, on disk first. Returns how many."""
        if going and self._file is not None:
            self._file.change((), [each.key for each in going])
        with self._kind.lock:
            for each in going:
                self._remove(each)
            self._settle()
        return len(going)

    def _forget_all(self) -> Cleared:
        with self._kind.lock:
            cleared, held = self.held_bytes, self._mapped_bytes
            for entry in list(self._table):
                self._remove(entry)
            self._settle()
            self._memory.squeeze()
            return Cleared(cleared, held - self._mapped_bytes)

    def _having(self, tags: tuple[str, ...]) -> list[Entry]:
        """Return the entries that have all of these tags, but those that ended. With the lock."""
        now = self._kind.now_ns()
        return [each for each in self._table.having(tags) if not each.ended(now)]


def _nothing() -> None:
    pass

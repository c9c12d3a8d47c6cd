"""What one scope keeps under one name: entries by key, with a bound, lifetimes, tags and prices."""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush, nsmallest
from typing import TYPE_CHECKING

from protocol.store_results import StoreEntry, StoreFigures
from worker.core.clock import NS_PER_MS
from worker.plugins import InvalidRequestError, LimitExceededError, Offer, PricedEntries, UnsupportedError
from worker.stores.base import Choice, Cleared, Content, Deleted, Form, Found, Hit, Item, Page, Put, Question
from worker.stores.segments import Ref

if TYPE_CHECKING:
    from worker.stores.base import Options
    from worker.stores.entries import EntryKind

ENTRY_BYTES = 512
"""What is kept about an entry beside its bytes: its record, its places in tables, its price. Measured on CPython 3.11."""
MIB = 2**20
LARGE_BYTES = MIB
"""Above this, copying keeps others waiting."""


class Entry:
    """What is known of an entry."""

    __slots__ = (
        "content_bytes",
        "cost_ms",
        "entry_bytes",
        "expires_ns",
        "form",
        "key",
        "put_ns",
        "ref",
        "tags",
    )

    def __init__(self, item: Item, ref: Ref, size: int, now_ns: int, expires_ns: int | None) -> None:
        self.key = item.key
        self.ref = ref
        self.form = item.content.form
        self.content_bytes = len(item.content.data)
        self.entry_bytes = size
        self.put_ns = now_ns
        self.expires_ns = expires_ns
        self.cost_ms = item.cost_ms or 0.0
        self.tags = item.tags


def entry_bytes(item: Item) -> int:
    """Return what an entry takes."""
    texts = sum(len(each.encode("utf-8", "surrogatepass")) for each in (item.key, *item.tags))
    return len(item.content.data) + texts + ENTRY_BYTES


class EntryStore:
    """A store of entries. All of its state is guarded by its kind's lock."""

    def __init__(self, kind: "EntryKind", name: str, options: "Options") -> None:
        self._kind = kind
        self._name = name
        self._memory = kind.memory
        self._options = options
        self._priced = PricedEntries()
        # All mutable state, beside the above.
        self._entries: dict[str, Entry] = {}
        self._tagged: dict[str, set[str]] = {}
        self._due: list[tuple[int, str]] = []
        """When entries may end: each once, at the earliest time that it could."""
        self.held_bytes = 0
        self._large = 0
        """Entries that take a while to copy."""
        self._hits = self._misses = self._evictions = 0
        self._saved_ms = 0.0

    @property
    def limit_bytes(self) -> int:
        """The most that it holds."""
        return self._options.max_bytes or self._kind.default_bytes

    @property
    def max_entries(self) -> int | None:
        """The most entries that it has; None for any number."""
        return self._options.max_entries or self._kind.default_entries

    @property
    def quick(self) -> bool:
        """Whether its entries are small."""
        return not self._large

    def check(self, content_bytes: int) -> None:
        """Refuse an entry that is larger than the store may be. LimitExceededError."""
        if content_bytes > self.limit_bytes:
            message = f"the entry takes {content_bytes} bytes, and the store may hold {self.limit_bytes}"
            message += ": open it with a larger max_bytes"
            raise LimitExceededError(message, entry_bytes=content_bytes, limit_bytes=self.limit_bytes)

    def configure(self, options: "Options") -> None:
        """Take over the options that are given; what is above a lower bound goes."""
        given = self._kind.resolved(options)
        with self._kind.lock:
            self._options = given.over(self._options)
            self._make_room(0, None)
            self._memory.tidy()

    # ---- entries ----

    def put(self, item: Item) -> Put:
        """Store an entry. The cheapest of the others go first; if it still fails, the one of that key stays."""
        if item.vector is not None and not self._kind.has_vectors:
            raise InvalidRequestError.at("data.vector", f"a store of kind {self._kind.word} keeps none")
        size = self._size_of(item)
        self.check(size)
        with self._kind.lock:
            now = self._kind.now_ns()
            self.expire(now)
            old = self._entries.get(item.key)
            refused = self._refusal(size, old)
            if refused is not None:
                return Put(size, 0, refused)
            evicted = self._make_room(size, old) + self._kind.make_room(size, old)
            ref = self._memory.put(item.content.data)
            try:
                self._index(item)
            except BaseException:
                self._memory.free(ref)
                raise
            if old is not None:
                self._drop(old)
            self._add(Entry(item, ref, size, now, self._expiry(item.ttl_ms, now)))
            self._priced.used(item.key, now)
            self._memory.tidy()
            return Put(size, evicted)

    def get(self, key: str) -> Found | None:
        """Return a copy of an entry."""
        with self._kind.lock:
            now = self._kind.now_ns()
            entry = self._entries.get(key)
            if entry is None or _ended(entry, now):
                self._misses += 1
                return None
            content = self._content(entry)
            self._hits += 1
            self._saved_ms += entry.cost_ms
            self._priced.used(key, now)
            return Found(content, (now - entry.put_ns) // NS_PER_MS)

    def search(self, _: Question) -> tuple[Hit, ...]:
        """Refuse: entries are found by their keys."""
        message = (
            f"a store of kind {self._kind.word} is not searched: it has keys, tags and prefixes;"
            " stores of kind vectors are, by a vector, and those of kind preferences, by a text"
        )
        raise UnsupportedError(message, store=self._name, kind=self._kind.word)

    def prompt(self, _: Iterable[str]) -> str | None:
        """Return None: its entries are no text for a model."""
        return None

    def page(self, after: str | None, limit: int) -> Page:
        """Return entries in the order of their keys."""
        with self._kind.lock:
            now = self._kind.now_ns()
            there = (
                key
                for key, entry in self._entries.items()
                if not _ended(entry, now) and (after is None or key > after)
            )
            keys = nsmallest(limit + 1, there)
            rows = tuple(_row(self._entries[key], now) for key in keys[:limit])
            return Page(rows, keys[limit - 1] if len(keys) > limit else None)

    def delete(self, choice: Choice) -> Deleted:
        """Delete entries; the system has their bytes back, gaps that are left included."""
        with self._kind.lock:
            keys = list(self._chosen(choice))
            before = self.held_bytes
            for key in keys:
                self._remove(self._entries[key])
            self._memory.tidy()
            return Deleted(len(keys), before - self.held_bytes)

    def clear(self) -> Cleared:
        """Delete all entries."""
        with self._kind.lock:
            cleared, held = self.held_bytes, self._mapped_bytes
            for entry in list(self._entries.values()):
                self._remove(entry)
            self._due.clear()
            self._memory.squeeze()
            return Cleared(cleared, held - self._mapped_bytes)

    def close(self) -> Cleared:
        """Give the memory back."""
        cleared = self.clear()
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
                entry_count=sum(not _ended(each, now) for each in self._entries.values()),
                held_bytes=self.held_bytes,
                limit_bytes=self.limit_bytes,
                hits=self._hits,
                misses=self._misses,
                saved_ms=self._saved_ms,
                evictions=self._evictions,
                price_ms_per_mib=round(sum(each.cost_ms for each in offers) * MIB / size, 6)
                if size
                else None,
            )

    # ---- for its kind, which has the lock ----

    def offers(self, need_bytes: int, now_ns: int) -> tuple[Offer, ...]:
        """Return entries that are cheap to lose, the cheapest per byte first; their tags are their keys."""
        return self._priced.offers(need_bytes, now_ns)

    def entry(self, key: str) -> Entry | None:
        """Return an entry that is there."""
        return self._entries.get(key)

    def evict(self, key: str) -> bool:
        """Drop an entry to make room. False where it is not there any more."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        self._remove(entry)
        self._evictions += 1
        return True

    def expire(self, now_ns: int) -> None:
        """Remove what has ended."""
        while self._due and self._due[0][0] <= now_ns:
            _, key = heappop(self._due)
            entry = self._entries.get(key)
            if entry is None or entry.expires_ns is None:
                continue
            if entry.expires_ns <= now_ns:
                self._remove(entry)
            else:
                heappush(self._due, (entry.expires_ns, key))

    # ---- what a kind may do otherwise ----

    def _size_of(self, item: Item) -> int:
        """Return what an entry takes."""
        return entry_bytes(item)

    def _refusal(self, size: int, _replaced: Entry | None) -> str | None:
        """Return why an entry of a size can't be taken now."""
        return self._kind.refusal(size)

    def _index(self, item: Item) -> None:
        """Keep what an entry is found by beside its key; what it raises leaves the store as it was."""

    def _unindex(self, key: str) -> None:
        """Forget that, of an entry that goes."""

    @property
    def _mapped_bytes(self) -> int:
        """What the system has given for entries, of all scopes, or for this one's index."""
        return self._memory.held_bytes

    # ---- inside ----

    def _content(self, entry: Entry) -> Content:
        """Return a copy of an entry's content."""
        return Content(self._memory.get(entry.ref), Form(entry.form))

    def _having(self, tags: tuple[str, ...]) -> Iterable[Entry]:
        """Return the entries that have all of these tags."""
        if not tags:
            return self._entries.values()
        keys = set.intersection(*(self._tagged.get(each, set()) for each in tags))
        return [self._entries[key] for key in keys]

    def _make_room(self, size: int, replaced: Entry | None) -> int:
        """Evict the cheapest until so much fits within the bounds, beside what is replaced. Returns how many went."""
        spared = 0 if replaced is None else replaced.entry_bytes
        evicted, most = 0, self.max_entries
        while True:
            over = self.held_bytes - spared + size - self.limit_bytes
            count = len(self._entries) + (size > 0 and replaced is None)
            if over <= 0 and (most is None or count <= most):
                return evicted
            before = evicted
            for offer in self.offers(max(1, over) + spared, self._kind.now_ns()):
                if replaced is None or offer.tag != replaced.key:
                    evicted += self.evict(str(offer.tag))
                    over -= offer.bytes
                    if over <= 0:
                        break
            if evicted == before:
                return evicted

    def _add(self, entry: Entry) -> None:
        self._entries[entry.key] = entry
        self._priced.add(entry.key, entry.entry_bytes, entry.cost_ms)
        self.held_bytes += entry.entry_bytes
        self._large += entry.content_bytes > LARGE_BYTES
        self._kind.held_bytes += entry.entry_bytes
        for tag in entry.tags:
            self._tagged.setdefault(tag, set()).add(entry.key)
        if entry.expires_ns is not None:
            heappush(self._due, (entry.expires_ns, entry.key))

    def _remove(self, entry: Entry) -> None:
        self._unindex(entry.key)
        self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.key]
        self._priced.remove(entry.key)
        self._memory.free(entry.ref)
        self._large -= entry.content_bytes > LARGE_BYTES
        self.held_bytes -= entry.entry_bytes
        self._kind.held_bytes -= entry.entry_bytes
        for tag in set(entry.tags):
            keys = self._tagged[tag]
            keys.remove(entry.key)
            if not keys:
                del self._tagged[tag]

    def _expiry(self, ttl_ms: int | None, now_ns: int) -> int | None:
        ttl = ttl_ms if ttl_ms is not None else self._options.ttl_ms
        return None if ttl is None else now_ns + ttl * NS_PER_MS

    def _chosen(self, choice: Choice) -> Iterable[str]:
        if choice.key is not None:
            return [choice.key] if choice.key in self._entries else []
        if choice.tag is not None:
            return self._tagged.get(choice.tag, ())
        return _beginning(self._entries, choice.prefix or "")


def _beginning(keys: Iterable[str], prefix: str) -> Iterator[str]:
    return (key for key in keys if key.startswith(prefix))


def _ended(entry: Entry, now_ns: int) -> bool:
    return entry.expires_ns is not None and entry.expires_ns <= now_ns


def _row(entry: Entry, now_ns: int) -> StoreEntry:
    left = None if entry.expires_ns is None else (entry.expires_ns - now_ns) // NS_PER_MS
    return StoreEntry(entry.key, entry.entry_bytes, (now_ns - entry.put_ns) // NS_PER_MS, left)

"""All stores of entries of one kind and name: their memory, and what they offer of it together."""

from collections.abc import Iterable, Iterator
from heapq import merge, nlargest
from pathlib import Path
from typing import NamedTuple

from protocol.vocabulary import StoreKind
from worker.core.clock import NS_PER_MS
from worker.core.log import log
from worker.core.sure_lock import SureLock
from worker.plugins import CancelToken, Holding, InvalidRequestError, Offer, Usage
from worker.stores.base import PERSISTENT, EntryFile, Opened, Options, Scope, Tools, named
from worker.stores.entry import Entry
from worker.stores.index import MIB, EntryStore
from worker.stores.segments import SegmentMemory

_PARTS = 4
"""Of offers: each is half of what is needed after it, since closing gaps costs about the same for any of them."""
_PRICED = 4096
"""Entries that are priced for an offer, at most."""
_STORES_ASKED = 64
"""The largest so many scopes' stores offer entries."""


class _Cheap(NamedTuple):
    """An entry that could go."""

    price: float
    bytes: int
    cost_ms: float
    store: EntryStore
    key: str


class EntryKind:
    """The consumer that all scopes' stores of one name are. A kind of entries is one of these with its own options."""

    word: StoreKind
    device_id = "cpu"
    stores: type[EntryStore] = EntryStore
    has_vectors = False
    """Whether each entry has one."""
    default_entries: int | None = None
    """The most entries of one that is opened without ``max_entries``; None for any number."""
    default_ttl_ms: int | None = None
    """How long entries last in one that is opened without ``ttl_ms``; None for as long as they have room."""
    default_bytes = 256 * MIB
    """The most that a store holds that is opened without ``max_bytes``."""

    def __init__(self, consumer_id: str, tools: Tools) -> None:
        self.kind = f"store_{self.word}"
        self.consumer_id = consumer_id
        self.now_ns = tools.now_ns
        self._utc_ms = tools.utc_ms
        self.on_disk = tools.folder is not None
        """Whether there is a folder for files."""
        self.lock = SureLock()
        # All mutable state, guarded by the lock, as is that of its stores.
        self.memory = SegmentMemory()
        self.held_bytes = 0
        self.max_bytes: int | None = None
        """For all scopes together; None for no such bound."""
        self._limit_bytes: int | None = None
        self._stores: set[EntryStore] = set()
        self._failing: set[EntryStore] = set()
        """Those that could not be tended the last time: each is logged once, until it could."""

    def open(self, name: str, scope: Scope, options: Options, file: Path | None) -> Opened:
        """Open a store, with what of it is on disk. InvalidRequestError for options that can't be met."""
        options = self.resolved(options)
        path = None if file is None else named(file, PERSISTENT)
        there = path is not None and path.exists()
        if options.persist and path is None:
            message = "this worker keeps nothing on disk: start it with --store-folder"
            raise InvalidRequestError.at("data.options.persist", message)
        if there and options.persist is False:
            message = "it is on disk: open it without that, or delete its scope first"
            raise InvalidRequestError.at("data.options.persist", message)
        if path is None or not (there or options.persist):
            return Opened(
                self._joined(self.stores(self, name, options, self.scratch(name, scope, file))), created=True
            )
        from worker.stores.files import StoreFile, about  # noqa: PLC0415 - only what persists needs it

        kept = StoreFile(path, about(scope, (self.word, name)))
        store = self.stores(self, name, kept.options(), kept)
        try:
            store.load()
            store.configure(options)
        except BaseException:
            store.close()
            raise
        return Opened(self._joined(store), created=not there)

    def scratch(self, _name: str, _scope: Scope, _file: Path | None) -> EntryFile | None:
        """Return the file that a store has which does not persist; none, where what goes can be made again."""
        return None

    def resolved(self, options: Options) -> Options:
        """Return options as they hold. InvalidRequestError for what this kind has not."""
        for name in ("preset", "dimensions", "metric"):
            if getattr(options, name) is not None:
                raise InvalidRequestError.at(f"data.options.{name}", f"a store of kind {self.word} has none")
        return options

    # ---- the consumer ----

    def holding(self) -> Holding:
        """Return what it holds."""
        return Holding(self.held_bytes)

    def usage(self) -> Usage:
        """Return what all of its stores' entries saved."""
        with self.lock:
            each = [store.usage for store in self._stores]
        return Usage(
            sum(u.hits or 0 for u in each),
            sum(u.misses or 0 for u in each),
            sum(u.saved_ms or 0.0 for u in each),
        )

    def offers(self, need_bytes: int) -> tuple[Offer, ...]:
        """Return what is cheapest to lose, over all scopes, in few parts; what is beyond many entries, as dear as the last."""
        need = max(need_bytes, MIB)
        with self.lock:
            priced = min(need, self._priced_bytes())
            parts = list(_in_parts(self._cheapest(priced), priced))
            rest = min(need, self.held_bytes) - sum(each.bytes for each in parts)
        if priced < need and parts and rest > 0:
            last = parts[-1]
            cost = last.cost_ms * rest / last.bytes
            parts.append(Offer(rest, cost, "entries that are about as cheap", divisible=True, tag=()))
        return tuple(parts)

    def release(self, offer: Offer, token: CancelToken) -> int:
        """Drop what was offered and is still there, or where that was not told, what is cheapest; the system has it back."""
        with self.lock:
            before = self.held_bytes
            goal = before - offer.bytes
            chosen: Iterable[_Cheap] = offer.tag  # type: ignore[assignment]  # its own
            try:
                while self._give_up(chosen or self._cheapest(self._priced_bytes()), goal) and not chosen:
                    token.check()
            finally:
                self.memory.squeeze()
            return before - self.held_bytes

    def limit_changed(self, limit_bytes: int | None, _reason: str) -> None:
        """Take over the most that all scopes together are to hold."""
        with self.lock:
            self._limit_bytes = limit_bytes

    def tend(self) -> None:
        """Do what is due: remove what has ended. A store that fails is logged, and keeps no other waiting."""
        with self.lock:
            stores = tuple(self._stores)
        failing = set()
        for each in stores:
            try:
                each.tend()
            except Exception as error:  # noqa: BLE001 - the next time it may go well
                failing.add(each)
                if each not in self._failing:
                    log("error", "tending a store failed", store=self.consumer_id, error=repr(error))
        self._failing = failing

    # ---- for its stores, which have the lock ----

    def behind_ns(self) -> int:
        """Return what the clock is behind the time of day."""
        return self._utc_ms() * NS_PER_MS - self.now_ns()

    def refusal(self, size: int) -> str | None:
        """Return why an entry of a size can't be taken now, whatever else goes."""
        limit = self.limit()
        if limit is None or size <= limit:
            return None
        return f"it takes {size} bytes, and all stores of this name may hold {limit} together"

    def make_room(self, size: int, replaced: Entry | None) -> int:
        """Have the cheapest of all scopes leave memory until so much fits beside what is replaced. Returns how many are gone."""
        limit, spared = self.limit(), 0 if replaced is None else replaced.entry_bytes
        given = evicted = 0
        while limit is not None and (over := self.held_bytes - spared + size - limit) > 0:
            before = given
            for each in self._cheapest(over + spared):
                if replaced is None or each.store.entry(each.key) is not replaced:
                    given += each.store.give_up(each.key)
                    evicted += not each.store.on_disk
                    over -= each.bytes
                    if over <= 0:
                        break
            if given == before:
                break
        return evicted

    def limit(self) -> int | None:
        """Return the most that all scopes together may hold now; None for no such bound."""
        limits = [each for each in (self.max_bytes, self._limit_bytes) if each is not None]
        return min(limits, default=None)

    def cold_bytes(self) -> int:
        """Return what could leave memory and be read from disk again."""
        return sum(each.warm_bytes for each in self._stores)

    def forget(self, store: EntryStore) -> None:
        """Have a store be none of its any more."""
        with self.lock:
            self._stores.discard(store)

    # ---- inside ----

    def _joined(self, store: EntryStore) -> EntryStore:
        with self.lock:
            self._stores.add(store)
        return store

    def _priced_bytes(self) -> int:
        """Return what so many entries have that pricing them keeps no one waiting."""
        count = sum(each.count for each in self._stores)
        return max(MIB, self.held_bytes * _PRICED // max(1, count))

    def _give_up(self, chosen: Iterable[_Cheap], goal: int) -> int:
        """Have entries leave memory until no more than the goal is held. Returns how many did."""
        gone = 0
        for each in chosen:
            if self.held_bytes <= goal:
                break
            gone += each.store.give_up(each.key)
        return gone

    def _cheapest(self, need_bytes: int) -> Iterator[_Cheap]:
        now = self.now_ns()
        stores = nlargest(_STORES_ASKED, self._stores, key=_held)
        return merge(
            *([_cheap(o, store) for o in store.offers(need_bytes, now)] for store in stores), key=_price
        )


def _cheap(offer: Offer, store: EntryStore) -> _Cheap:
    return _Cheap(offer.cost_ms / max(1, offer.bytes), offer.bytes, offer.cost_ms, store, str(offer.tag))


def _price(one: _Cheap) -> float:
    return one.price


def _held(store: EntryStore) -> int:
    return store.held_bytes


def _in_parts(cheapest: Iterator[_Cheap], need_bytes: int) -> Iterator[Offer]:
    """Put entries together into few offers: the first an eighth of the need, but a MiB at least, the last half of it."""
    part: list[_Cheap] = []
    size = reached = 0
    goal = max(MIB, need_bytes >> (_PARTS - 1))
    for each in cheapest:
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


def _offer(part: list[_Cheap], size: int) -> Offer:
    cost = sum(each.cost_ms for each in part)
    # No count: who puts several of these together tells the words of one for all of them.
    return Offer(size, cost, "entries that are the cheapest to make again", divisible=True, tag=tuple(part))

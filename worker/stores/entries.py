"""All stores of entries of one kind and name: their memory, and what they offer of it together."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from protocol.vocabulary import StoreKind
from worker.core.clock import NS_PER_MS
from worker.core.log import log
from worker.plugins import CancelToken, Holding, InvalidRequestError, Offer, Usage
from worker.stores.base import PERSISTENT, EntryFile, Opened, Options, Scope, Tools, named
from worker.stores.disk import is_there
from worker.stores.entry import ENTRY_BYTES, HEAD_BYTES, Entry
from worker.stores.giving import DEAR, MIB, EntryLot, Giving, Lot, PartLot, Pricing, What, offers_of
from worker.stores.index import EntryStore
from worker.stores.owner import KindLock, Member, Owner
from worker.stores.prices import Draws
from worker.stores.releasing import Releasing
from worker.stores.segment import Segment
from worker.stores.segments import SegmentMemory


class EntryKind(Owner):
    """The consumer that all scopes' stores of one name are. A kind of entries is one of these with its own options."""

    word: StoreKind
    device_id = "cpu"
    stores: type[EntryStore] = EntryStore
    options: tuple[str, ...] = ()
    """Those that not all kinds have, which this one has."""
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
        self.lock = KindLock()
        # All mutable state, guarded by the lock, as is that of its stores.
        self.memory = SegmentMemory()
        self.parts_bytes = 0
        """What stores hold beside their entries."""
        self.draws = Draws()
        self.max_bytes: int | None = None
        """For all scopes together; None for no such bound."""
        self._limit_bytes: int | None = None
        self._stores: dict[int, EntryStore] = {}
        self._failing: set[EntryStore] = set()
        """Those that could not be tended the last time: each is logged once, until it could."""

    def open(self, name: str, scope: Scope, options: Options, file: Path | None) -> Opened:
        """Open a store, with what of it is on disk. InvalidRequestError for options that can't be met."""
        options = self.resolved(options)
        path = None if file is None else named(file, PERSISTENT)
        there = path is not None and is_there(path)
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

        with ExitStack() as undo:
            kept = StoreFile(path, about(scope, (self.word, name)))
            undo.callback(kept.close)
            store = self.stores(self, name, kept.options(), kept)
            undo.callback(store.close)
            store.load()
            store.configure(options)
            undo.pop_all()
        return Opened(self._joined(store), created=not there)

    def scratch(self, _name: str, _scope: Scope, _file: Path | None) -> EntryFile | None:
        """Return the file that a store has which does not persist; none, where what goes can be made again."""
        return None

    def resolved(self, options: Options) -> Options:
        """Return options as they hold. InvalidRequestError for what this kind has not."""
        for name in ("preset", "dimensions", "metric"):
            if getattr(options, name) is not None and name not in self.options:
                raise InvalidRequestError.at(f"data.options.{name}", f"a store of kind {self.word} has none")
        return options

    # ---- the consumer ----

    @property
    def entries_bytes(self) -> int:
        """What all of its stores' entries take in memory."""
        return self.memory.alive_bytes + (ENTRY_BYTES - HEAD_BYTES) * self.memory.count

    @property
    def held_bytes(self) -> int:
        """What all of its stores hold in memory."""
        memory = self.memory  # as often as anything goes
        return memory.alive_bytes + (ENTRY_BYTES - HEAD_BYTES) * memory.count + self.parts_bytes

    def holding(self) -> Holding:
        """Return what it holds."""
        return Holding(self.held_bytes)

    def usage(self) -> Usage:
        """Return what all of its stores' entries saved, and what all that is beside them takes."""
        with self.lock:
            each = [store.usage for store in self._stores.values()]
            overhead = self.memory.held_bytes - self.memory.alive_bytes
            overhead += sum(store.prices.held_bytes for store in self._stores.values())
        return Usage(
            sum(u.hits or 0 for u in each),
            sum(u.misses or 0 for u in each),
            sum(u.saved_ms or 0.0 for u in each),
            overhead,
        )

    def offers(self, need_bytes: int) -> tuple[Offer, ...]:
        """Return what is cheapest to lose, over all scopes, in few parts."""
        need = max(need_bytes, MIB)
        with self.lock:
            return tuple(offers_of(self._lots(need), need))

    def release(self, offer: Offer, token: CancelToken) -> int:
        """Drop what was offered and is still there, and where that is less than was asked for, the next; the system has it back."""
        before = self.held_bytes
        goal = before - offer.bytes
        lots: Sequence[Lot] = offer.tag  # type: ignore[assignment]  # its own offers have lots for a tag
        try:
            self._give(lots, goal, token)  # nothing goes where closing gaps has moved all of it since
            more = self.held_bytes > goal
            while more and self._is_whole(lots):
                with self.lock:
                    lots = self._lots(max(MIB, self.held_bytes - goal))
                more = self._give(lots, goal, token)
        finally:
            with self.lock:
                self.memory.squeeze()
                for each in self._stores.values():
                    each.shrink()
        return max(0, before - self.held_bytes)

    def limit_changed(self, limit_bytes: int | None, _reason: str) -> None:
        """Take over the most that all scopes together are to hold."""
        with self.lock:
            self._limit_bytes = limit_bytes

    def tend(self) -> None:
        """Do what is due: remove what has ended, and learn what is used. A store that fails is logged, and keeps no other waiting."""
        with self.lock:
            stores = tuple(self._stores.values())
        failing = set()
        for each in stores:
            with self.lock:
                each.prices.learn()
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
        limit, evicted = self.limit(), 0
        if limit is None:
            return 0
        spared = 0 if replaced is None else replaced.entry_bytes
        while (over := self.held_bytes - spared + size - limit) > 0:
            before = self.held_bytes
            for each in self._lots(over + spared, back=False):
                if not _is(each.what, replaced):
                    evicted += self._give_lot(each)
                    if self.held_bytes - spared + size <= limit:
                        break
            if self.held_bytes >= before:
                break
        return evicted

    def limit(self) -> int | None:
        """Return the most that all scopes together may hold now; None for no such bound."""
        most, limit = self.max_bytes, self._limit_bytes
        return limit if most is None else most if limit is None else min(most, limit)

    def cold_bytes(self) -> int:
        """Return what could leave memory."""
        parts = (size for each in self._stores.values() for _, size, _ in each.parts())
        return self.memory.given_bytes + sum(parts)

    def pricing(self) -> Pricing:
        """Return what tells prices now."""
        return Pricing(self._stores, self.now_ns())

    def price_ms_per_mib(self, store: Member) -> float | None:
        """Return what the next MiB of a store costs; None where there is none."""
        if len(self._stores) == 1:  # the consumer says the same
            lots = self._lots(MIB)
            size, cost = sum(each.bytes for each in lots), sum(each.cost_ms for each in lots)
        else:
            size, cost = store.next_price(MIB)
        return round(cost * MIB / size, 6) if size else None

    def forget(self, store: Member) -> None:
        """Have a store be none of its any more."""
        with self.lock:
            self._stores.pop(store.number, None)
            store.leave()

    # ---- inside ----

    def _joined(self, store: EntryStore) -> EntryStore:
        with self.lock:
            self._stores[store.number] = store
        return store

    def _lots(self, need_bytes: int, *, back: bool = True) -> list[Lot]:
        return Giving(self.memory, self._stores, self.pricing(), self.draws).lots(need_bytes, back=back)

    def _give(self, lots: Sequence[Lot], goal: int, token: CancelToken) -> bool:
        """Have lots leave memory until no more than the goal is held. Returns whether more is to go, and some went."""
        begun = self.held_bytes
        with self.lock:
            releasing = self._releasing(each.what for each in lots)
        for each in lots:
            token.check()
            with self.lock:
                over = self.held_bytes - goal
                if over <= 0:
                    return False
                if isinstance(each.what, Segment):
                    dear = DEAR * max(lots[-1].price, each.price)
                    releasing.release(each.what, dear, over, self.pricing)
                else:
                    self._give_lot(each)
        return goal < self.held_bytes < begun

    # ---- inside, with the lock ----

    def _give_lot(self, lot: Lot) -> int:
        """Have a lot leave memory. Returns how many entries are gone by that."""
        what = lot.what
        if isinstance(what, EntryLot):
            return what.store.give_up(what) and not what.store.on_disk
        if isinstance(what, PartLot):
            what.store.give_up_part(what.name)
            return 0
        before = sum(each.evictions for each in self._stores.values())
        self._releasing((what,)).release(what, DEAR * lot.price, self.held_bytes, self.pricing)
        return sum(each.evictions for each in self._stores.values()) - before

    def _releasing(self, those: Iterable[What]) -> Releasing:
        segments = (each for each in those if isinstance(each, Segment))
        return Releasing(self.memory, self._stores, lambda: self.held_bytes, segments)

    @staticmethod
    def _is_whole(lots: Sequence[Lot]) -> bool:
        return any(isinstance(each.what, Segment) for each in lots)


def _is(what: What, entry: Entry | None) -> bool:
    """Tell whether a lot is an entry."""
    return (
        isinstance(what, EntryLot) and entry is not None
        and (what.hash, what.serial, what.store.number) == (entry.hash, entry.serial, entry.store)
    )  # fmt: skip

"""What a store of entries uses of its kind, and its kind of it: kinds import their stores, and no store its kind."""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from protocol.vocabulary import StoreKind
from worker.core.sure_lock import SureLock
from worker.stores.base import Options
from worker.stores.entry import Entry
from worker.stores.giving import Giver, Pricing
from worker.stores.prices import Draws
from worker.stores.segments import SegmentMemory


class Closable(Protocol):
    """What gives memory back."""

    def close(self) -> None:
        """Give it back, however long that takes, and whoever has to be waited for."""
        ...


class KindLock(SureLock):
    """A kind's lock, with which nobody waits for what is large to be closed: that is done once a ``with`` block has released it."""

    __slots__ = ("_leaving",)

    def __init__(self) -> None:
        super().__init__()
        self._leaving: tuple[Closable, ...] = ()

    def close_after(self, what: Closable) -> None:
        """Have it closed by who holds the lock now, as the last thing of its ``with`` block. MemoryError: it is not."""
        self._leaving = (*self._leaving, what)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        leaving, self._leaving = self._leaving, ()
        self.release()
        if leaving:
            for each in leaving:
                each.close()


class Member(Giver, Protocol):
    """A store of a kind (``held.HeldEntries``). Its kind has the lock."""

    def next_price(self, need_bytes: int) -> tuple[int, float]:
        """Return how many bytes the next ones of it are, and what they are worth keeping, of a sample."""
        ...

    def leave(self) -> None:
        """Be none of its kind's any more."""
        ...


class Owner(Protocol):
    """All stores of one kind and name (``entries.EntryKind``). Methods are called with the lock, but for the last two."""

    word: StoreKind
    has_vectors: bool
    """Whether each entry has one."""
    default_entries: int | None
    default_ttl_ms: int | None
    default_bytes: int
    lock: KindLock
    memory: SegmentMemory
    parts_bytes: int
    """What stores hold beside their entries."""
    draws: Draws
    now_ns: Callable[[], int]

    @property
    def entries_bytes(self) -> int:
        """What all of its stores' entries take in memory."""
        ...

    @property
    def held_bytes(self) -> int:
        """What all of its stores hold in memory."""
        ...

    def behind_ns(self) -> int:
        """Return what the clock is behind the time of day."""
        ...

    def refusal(self, size: int) -> str | None:
        """Return why an entry of a size can't be taken now, whatever else goes."""
        ...

    def make_room(self, size: int, replaced: Entry | None) -> int:
        """Have the cheapest of all scopes leave memory until so much fits beside what is replaced. Returns how many are gone."""
        ...

    def limit(self) -> int | None:
        """Return the most that all scopes together may hold now; None for no such bound."""
        ...

    def pricing(self) -> Pricing:
        """Return what tells prices now."""
        ...

    def price_ms_per_mib(self, store: Member) -> float | None:
        """Return what the next MiB of a store costs; None where there is none."""
        ...

    def resolved(self, options: Options) -> Options:
        """Return options as they hold. InvalidRequestError for what this kind has not."""
        ...

    def forget(self, store: Member) -> None:
        """Have a store be none of its any more. Takes the lock itself."""
        ...

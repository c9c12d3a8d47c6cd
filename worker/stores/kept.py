"""Entries that can't be made again: none goes from memory but to disk, and what does not fit is refused."""

from collections.abc import Iterable

from worker.plugins import Holding
from worker.stores.entries import EntryKind
from worker.stores.entry import Entry
from worker.stores.index import EntryStore
from worker.stores.segment import Band


class StayingStore(EntryStore):
    """A store that gives up nothing that is in memory alone."""

    def _band(self, entry: Entry) -> Band:
        return None if self._file is None else super()._band(entry)


class StayingKind(EntryKind):
    """The consumer of such stores: it takes part, and what is nowhere else is its floor."""

    stores: type[EntryStore] = StayingStore

    def holding(self) -> Holding:
        """Return that nothing of it can go but copies of what is on disk, and what is made of that."""
        with self.lock:
            return Holding(self.held_bytes, floor_bytes=self.held_bytes - self.cold_bytes())


class KeptStore(StayingStore):
    """A store that refuses above its bounds: none goes by itself but by its own lifetime."""

    def _cheapest(self, _need_bytes: int) -> Iterable[Entry]:
        return ()

    def _refusal(self, size: int, replaced: Entry | None) -> str | None:
        most, limit = self.max_entries, self._kind.limit()
        if replaced is None and most is not None and len(self._table) >= most:
            return f"it is full: max_entries is {most}; delete some, or open it with more"
        grows = size - (0 if replaced is None else replaced.entry_bytes)
        if grows > 0 and self._table.total_bytes + grows > self.limit_bytes:
            return f"it would hold more than max_bytes, {self.limit_bytes}: delete some, or open it with more"
        if self._file is None and grows > 0 and limit is not None and self._kind.held_bytes + grows > limit:
            return f"all stores of this name may hold {limit} bytes together just now: memory is short"
        return None


class KeptKind(StayingKind):
    """The consumer of such stores."""

    stores: type[EntryStore] = KeptStore

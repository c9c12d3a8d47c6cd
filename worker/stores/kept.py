"""Entries that can't be made again: what does not fit is refused, and none goes by itself but by its own lifetime."""

from collections.abc import Iterable

from worker.plugins import Holding, Offer
from worker.stores.entries import EntryKind
from worker.stores.entry import Entry
from worker.stores.index import EntryStore


class KeptStore(EntryStore):
    """A store that refuses above its bounds."""

    def offers(self, need_bytes: int, now_ns: int) -> tuple[Offer, ...]:
        """Offer the contents that are on disk, too; nothing of what is in memory alone."""
        return () if self._file is None else super().offers(need_bytes, now_ns)

    def _cheapest(self, _need_bytes: int) -> Iterable[Entry]:
        return ()

    def _refusal(self, size: int, replaced: Entry | None) -> str | None:
        most, limit = self.max_entries, self._kind.limit()
        if replaced is None and most is not None and len(self._table.entries) >= most:
            return f"it is full: max_entries is {most}; delete some, or open it with more"
        grows = size - (0 if replaced is None else replaced.entry_bytes)
        if grows > 0 and self._table.total_bytes + grows > self.limit_bytes:
            return f"it would hold more than max_bytes, {self.limit_bytes}: delete some, or open it with more"
        if self._file is None and grows > 0 and limit is not None and self._kind.held_bytes + grows > limit:
            return f"all stores of this name may hold {limit} bytes together just now: memory is short"
        return None


class KeptKind(EntryKind):
    """The consumer of such stores: it takes part, and what it holds is its floor."""

    stores: type[EntryStore] = KeptStore

    def holding(self) -> Holding:
        """Return that nothing of it can go but copies of what is on disk."""
        with self.lock:
            return Holding(self.held_bytes, floor_bytes=self.held_bytes - self.cold_bytes())

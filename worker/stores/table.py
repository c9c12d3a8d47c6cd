"""The entries of one store by key, tag and end of time. Its owner locks."""

from heapq import heappop, heappush, nsmallest

from worker.stores.base import Choice
from worker.stores.entry import Entry


class EntryTable:
    """All entries of a store, wherever their bytes are."""

    def __init__(self) -> None:
        # All mutable state.
        self.entries: dict[str, Entry] = {}
        self.total_bytes = 0
        """In memory and on disk."""
        self._tagged: dict[str, set[str]] = {}
        self._due: list[tuple[int, str]] = []
        """When entries may end: each at the earliest time that it could."""

    def add(self, entry: Entry) -> None:
        """Add an entry; there is none of its key."""
        self.entries[entry.key] = entry
        self.total_bytes += entry.entry_bytes
        for tag in entry.tags:
            self._tagged.setdefault(tag, set()).add(entry.key)
        if entry.expires_ns is not None:
            heappush(self._due, (entry.expires_ns, entry.key))

    def remove(self, entry: Entry) -> None:
        """Remove an entry that is there."""
        del self.entries[entry.key]
        self.total_bytes -= entry.entry_bytes
        for tag in set(entry.tags):
            keys = self._tagged[tag]
            keys.remove(entry.key)
            if not keys:
                del self._tagged[tag]

    def chosen(self, choice: Choice) -> list[Entry]:
        """Return the entries that are chosen."""
        if choice.key is not None:
            return [self.entries[choice.key]] if choice.key in self.entries else []
        if choice.tag is not None:
            return [self.entries[key] for key in self._tagged.get(choice.tag, ())]
        prefix = choice.prefix or ""
        return [entry for key, entry in self.entries.items() if key.startswith(prefix)]

    def any_ended(self, now_ns: int) -> bool:
        """Tell whether the time of any entry may be over."""
        return bool(self._due) and self._due[0][0] <= now_ns

    def having(self, tags: tuple[str, ...]) -> list[Entry]:
        """Return the entries that have all of these tags."""
        if not tags:
            return list(self.entries.values())
        keys = set.intersection(*(self._tagged.get(each, set()) for each in tags))
        return [self.entries[key] for key in keys]

    def page(self, after: str | None, limit: int, now_ns: int) -> list[Entry]:
        """Return the entries whose keys come next after that one, by key, but those that ended."""
        there = (each for each in self.entries.values() if not each.ended(now_ns))
        return nsmallest(limit, (each for each in there if after is None or each.key > after), key=_key)

    def ended(self, now_ns: int) -> list[Entry]:
        """Return the entries whose time is over. They are told once: remove them."""
        found: dict[str, Entry] = {}
        while self._due and self._due[0][0] <= now_ns:
            _, key = heappop(self._due)
            entry = self.entries.get(key)
            if entry is None or entry.expires_ns is None:
                continue
            if entry.ended(now_ns):
                found[key] = entry
            else:  # it was used meanwhile, or is another one
                heappush(self._due, (entry.expires_ns, key))
        return list(found.values())

    def put_off(self, entries: list[Entry]) -> None:
        """Have ended entries be told again: they could not be removed."""
        for entry in entries:
            heappush(self._due, (entry.expires_ns or 0, entry.key))


def _key(entry: Entry) -> str:
    return entry.key

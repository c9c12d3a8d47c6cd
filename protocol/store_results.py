"""What the stores' actions answer. As ``protocol.results``: frozen records, standard library only."""

from typing import Any

from protocol.record import Record
from protocol.results import Bytes, Cost, Count, Milliseconds, SharedMemory
from protocol.vocabulary import StoreKind


class StoreOpenResult(Record):
    """The store is open."""

    store: str
    kind: StoreKind
    created: bool
    """False where it was open already, or came from disk."""
    limit_bytes: Bytes
    """The most that it holds in memory."""


class StorePutResult(Record):
    """Whether the entry was stored, and what went for it."""

    stored: bool
    reason: str | None
    """Why it was not; null where it was."""
    entry_bytes: Bytes
    """What it takes, its key and what is kept about it included."""
    evicted_entries: Count
    """Others that went to make room for it."""


class StoreGetResult(Record):
    """A copy of an entry."""

    found: bool
    value: Any
    """Null where it was not found, or is no JSON."""
    allocation_id: str | None
    """Of a shared allocation with a copy of its bytes, which is freed after 60 s unless that is renewed; null for JSON."""
    shared_memory: SharedMemory | None
    """Where the host maps that."""
    age_ms: Milliseconds | None
    """Since it was put."""


class StoreHit(Record):
    """An entry that was searched for."""

    key: str
    score: float
    """The higher, the nearer."""
    value: Any


class StoreSearchResult(Record):
    """The nearest entries, the nearest first."""

    results: tuple[StoreHit, ...]
    prompt: str | None
    """Preferences that were found as lines of text, for a model's prompt; null for other kinds."""


class RefusedFile(Record):
    """A file that is not in the store."""

    path: str
    reason: str


class StoreLoadFolderResult(Record):
    """What came of loading a folder."""

    files_loaded: Count
    files_unchanged: Count
    """As they were when they were loaded before: not read again."""
    files_removed: Count
    """Loaded before, and gone, or left out now."""
    files_refused: tuple[RefusedFile, ...]
    """At most 1,000."""


class StoreEntry(Record):
    """One entry, without its content."""

    key: str
    entry_bytes: Bytes
    age_ms: Milliseconds
    expires_in_ms: Milliseconds | None
    """Null for never."""


class StoreListResult(Record):
    """A page of entries."""

    entries: tuple[StoreEntry, ...]
    next: str | None
    """Given as ``after`` for the next page; null after the last."""
    prompt: str | None
    """Preferences of this page as lines of text, for a model's prompt; null for other kinds."""


class StoreDeleteResult(Record):
    """How many entries went, and what they took."""

    deleted_entries: Count
    freed_bytes: Bytes


class StoreClearResult(Record):
    """The store is empty."""

    cleared_bytes: Bytes
    """What its entries took."""
    returned_bytes: Bytes
    """What of that the system has back before this is answered."""


class StoreCloseResult(Record):
    """The store is closed."""

    cleared_bytes: Bytes
    """What its entries took in memory."""
    returned_bytes: Bytes
    """What of that the system has back before this is answered."""


class StoreDeleteScopeResult(Record):
    """Nothing of the scope is left."""

    stores: tuple[str, ...]
    """Which there were, in memory or on disk."""
    deleted_entries: Count
    freed_bytes: Bytes
    """In memory and on disk."""


class StoreFigures(Record):
    """What one store holds, and what it saves."""

    store: str
    kind: StoreKind
    entry_count: Count
    held_bytes: Bytes
    """In memory: what is on disk alone is not counted."""
    limit_bytes: Bytes
    hits: Count
    misses: Count
    saved_ms: Cost
    """Milliseconds of making again that its hits have saved."""
    evictions: Count
    price_ms_per_mib: Cost | None
    """Of the next MiB that it would give back; null where it gives back none."""
    overhead_bytes: Bytes | None = None
    """What it takes beside that: what is known of uses, gaps that are not closed yet, and rests of huge pages. Of those its part of
    what all scopes' stores of its name have. null where that is not known."""


class StoreStatsResult(Record):
    """What the stores hold together, and each of them."""

    entry_count: Count
    held_bytes: Bytes
    limit_bytes: Bytes
    hits: Count
    misses: Count
    saved_ms: Cost
    evictions: Count
    price_ms_per_mib: Cost | None
    """The cheapest of them."""
    stores: tuple[StoreFigures, ...]
    overhead_bytes: Bytes | None = None

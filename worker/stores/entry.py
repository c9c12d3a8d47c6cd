"""One entry of a store: what is known of it beside its bytes, and how that is said on disk."""

from protocol.store_results import StoreEntry
from worker.core.clock import NS_PER_MS
from worker.stores.base import Form, Row
from worker.stores.segments import Ref

ENTRY_BYTES = 512
"""What is kept about an entry beside its bytes: its record, its places in tables, its price. Measured on CPython 3.11."""


class Entry:
    """What is known of an entry. But for where its bytes are, its last use and its end, it does not change."""

    __slots__ = (
        "beside_bytes", "content_bytes", "cost_ms", "entry_bytes", "expires_ns", "form", "key", "put_ns", "ref", "tags", "ttl_ns", "used_ns",
    )  # fmt: skip

    def __init__(
        self, key: str, form: Form, content_bytes: int, entry_bytes: int, put_ns: int, ttl_ns: int | None, cost_ms: float,
        tags: tuple[str, ...], beside_bytes: int = 0,
    ) -> None:  # fmt: skip
        self.key = key
        self.form = form
        self.content_bytes = content_bytes
        self.entry_bytes = entry_bytes
        self.beside_bytes = beside_bytes
        """Of these: what its store keeps of it elsewhere, and counts by itself."""
        self.put_ns = self.used_ns = put_ns
        self.ttl_ns = ttl_ns
        self.expires_ns = None if ttl_ns is None else put_ns + ttl_ns
        self.cost_ms = cost_ms
        self.tags = tags
        self.ref: Ref | None = None
        """Where its bytes are in memory; None where they are on disk alone."""

    @property
    def held_bytes(self) -> int:
        """What it takes in memory."""
        here = self.entry_bytes - self.beside_bytes
        return here if self.ref is not None else here - self.content_bytes

    def ended(self, now_ns: int) -> bool:
        """Tell whether its time is over."""
        return self.expires_ns is not None and self.expires_ns <= now_ns


def about_bytes(key: str, tags: tuple[str, ...]) -> int:
    """Return what an entry takes beside its content."""
    return ENTRY_BYTES + sum(len(each.encode("utf-8", "surrogatepass")) for each in (key, *tags))


def listed(entry: Entry, now_ns: int) -> StoreEntry:
    """Return an entry as it is listed."""
    left = None if entry.expires_ns is None else (entry.expires_ns - now_ns) // NS_PER_MS
    return StoreEntry(entry.key, entry.entry_bytes, (now_ns - entry.put_ns) // NS_PER_MS, left)


def row_of(entry: Entry, content: bytes | bytearray, vector: bytes | None, behind_ns: int) -> Row:
    """Return an entry as it is on disk, where times are of the day: ``behind_ns`` is what the clock is behind that."""
    expires = None if entry.expires_ns is None else (entry.expires_ns + behind_ns) // NS_PER_MS
    put_ms = (entry.put_ns + behind_ns) // NS_PER_MS
    size = 0 if vector is None else len(vector)
    return Row(
        entry.key, entry.form, put_ms, expires, entry.cost_ms, entry.tags, len(content), size, vector, content
    )


def entry_of(row: Row, entry_bytes: int, beside_bytes: int, behind_ns: int) -> Entry:
    """Return the entry of what is on disk."""
    ttl = None if row.expires_ms is None else (row.expires_ms - row.put_ms) * NS_PER_MS
    put_ns = row.put_ms * NS_PER_MS - behind_ns
    size = row.content_bytes
    found = Entry(
        row.key, Form(row.form), size, entry_bytes, put_ns, ttl, row.cost_ms, row.tags, beside_bytes
    )
    if row.used_ms is not None:
        found.used_ns = max(put_ns, row.used_ms * NS_PER_MS - behind_ns)
    return found

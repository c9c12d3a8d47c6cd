"""One entry of a store: what is known of it beside its bytes, as it lies before them in memory, and as it is on disk."""

from struct import Struct
from typing import Any

from protocol.store_results import StoreEntry
from worker.core.clock import NS_PER_MS
from worker.stores.base import Form, Row
from worker.stores.key_index import hash_of

HEAD = Struct("<QQqqqqdQIIIHBB")
"""Hash, serial, times of put, last use and end, lifetime, cost, bytes of content and beside it, store, bytes of tags and
key, form, and whether it is there: key, tags and content follow."""
HEAD_BYTES = HEAD.size
USED, USED_AT = Struct("<qq"), 24
"""The last use and the end, which change."""
STATE_AT = HEAD_BYTES - 1
GONE, COLD, WARM, ALONE = range(4)
"""Nothing; a record without the content, which is on disk alone; one with a copy of that; and one that is all there is."""
ENTRY_BYTES = 128
"""What an entry counts for beside its bytes: its head, its slot of an index that is half full, and its place in the keys' order."""
LARGE_BYTES = 2**20
"""Of content: above this, copying keeps others waiting."""
NEVER = 2**63 - 1
"""The end of what lasts."""
FORMS = tuple(Form)


class Entry:
    """What was known of an entry when it was looked at. With its serial it is known again wherever it lies by then."""

    __slots__ = (
        "about_bytes", "beside_bytes", "content_bytes", "cost_ms", "expires_ns", "form", "hash", "key", "key_data", "place", "put_ns", "serial",
        "state", "store", "tags", "tags_data", "ttl_ns", "used_ns",
    )  # fmt: skip

    def __init__(
        self, key: str, form: Form, content_bytes: int, put_ns: int, ttl_ns: int | None, cost_ms: float,
        tags: tuple[str, ...], beside_bytes: int = 0,
    ) -> None:  # fmt: skip
        self.key, self.key_data = key, key_bytes(key)
        self.tags, self.tags_data = tags, tags_bytes(tags)
        self.about_bytes = ENTRY_BYTES + len(self.key_data) + len(self.tags_data)
        """What it counts for beside its bytes."""
        self.hash = hash_of(key)
        self.form = form
        self.content_bytes = content_bytes
        self.beside_bytes = beside_bytes
        """What its store keeps of it elsewhere, and counts by itself."""
        self.put_ns = self.used_ns = put_ns
        self.ttl_ns = min(ttl_ns or 0, NEVER)
        """0 for none."""
        self.expires_ns = end_of(put_ns, self.ttl_ns)
        self.cost_ms = cost_ms
        self.store = self.serial = self.place = 0
        self.state = GONE
        """Where it is in memory, and whether its bytes are, too."""

    @property
    def entry_bytes(self) -> int:
        """What it counts for, in memory and on disk."""
        return self.about_bytes + self.content_bytes + self.beside_bytes

    @property
    def held_bytes(self) -> int:
        """What it takes in memory."""
        return self.about_bytes + self.content_bytes if self.state >= WARM else self.about_bytes

    @property
    def record_bytes(self) -> int:
        """The length of its record."""
        return self.held_bytes - ENTRY_BYTES + HEAD_BYTES

    @property
    def given_bytes(self) -> int:
        """What is given back when it leaves memory, as ``sizes`` has it."""
        if self.state == COLD:
            return 0
        return self.content_bytes if self.state == WARM else self.about_bytes + self.content_bytes

    @property
    def is_warm(self) -> bool:
        """Whether its bytes are in memory."""
        return self.state >= WARM

    def ended(self, now_ns: int) -> bool:
        """Tell whether its time is over."""
        return self.expires_ns <= now_ns

    def head(self) -> bytes:
        """Return how its record begins."""
        return (
            HEAD.pack(
                self.hash, self.serial, self.put_ns, self.used_ns, self.expires_ns, self.ttl_ns, self.cost_ms,
                self.content_bytes, self.beside_bytes, self.store, len(self.tags_data), len(self.key_data),
                self.form, self.state,
            )
            + self.key_data
            + self.tags_data
        )  # fmt: skip


def sizes(head: tuple[Any, ...]) -> tuple[int, int]:
    """Return what a record takes, and what is given back when its entry leaves memory: of one on disk, its content."""
    _, _, _, _, _, _, _, content, _, _, tags, key, _, state = head
    if state == COLD:
        return HEAD_BYTES + key + tags, 0
    size = HEAD_BYTES + key + tags + content
    return size, content if state == WARM else size - HEAD_BYTES + ENTRY_BYTES


def counted(head: tuple[Any, ...]) -> int:
    """Return what the entry of a record counts for, in memory and on disk."""
    return int(ENTRY_BYTES + head[7] + head[8] + head[10] + head[11])


def entry_at(head: tuple[Any, ...], data: bytes, place: int) -> Entry:
    """Return the entry of a record's head, and of its key and tags."""
    found = Entry.__new__(Entry)
    found.place = place
    (
        found.hash, found.serial, found.put_ns, found.used_ns, found.expires_ns, found.ttl_ns, found.cost_ms,
        found.content_bytes, found.beside_bytes, found.store, tags, key, form, found.state,
    ) = head  # fmt: skip
    found.form = FORMS[form]
    found.key_data, found.tags_data = data[:key], data[key:]
    found.about_bytes = ENTRY_BYTES + key + tags
    found.key = key_text(found.key_data)
    found.tags = _tags_of(found.tags_data) if tags else ()
    return found


def end_of(used_ns: int, ttl_ns: int) -> int:
    """Return when what was used last at a time ends; a lifetime of 0 is none."""
    return min(used_ns + ttl_ns, NEVER) if ttl_ns else NEVER


def key_bytes(key: str) -> bytes:
    """Return a key as it is kept: bytes are ordered as their texts are."""
    return key.encode("utf-8", "surrogatepass")


def key_text(data: bytes) -> str:
    """Return a key that is kept."""
    return data.decode("utf-8", "surrogatepass")


def tags_bytes(tags: tuple[str, ...]) -> bytes:
    """Return tags as they are kept: each after its length in two bytes."""
    if not tags:
        return b""
    return b"".join(len(data).to_bytes(2, "little") + data for data in map(key_bytes, tags))


def _tags_of(data: bytes) -> tuple[str, ...]:
    tags, at = list[str](), 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "little")
        tags.append(data[at + 2 : end].decode("utf-8", "surrogatepass"))
        at = end
    return tuple(tags)


def about_bytes(key: str, tags: tuple[str, ...]) -> int:
    """Return what an entry counts for beside its content."""
    return ENTRY_BYTES + len(key_bytes(key)) + len(tags_bytes(tags))


def listed(entry: Entry, now_ns: int) -> StoreEntry:
    """Return an entry as it is listed."""
    left = None if entry.expires_ns == NEVER else (entry.expires_ns - now_ns) // NS_PER_MS
    return StoreEntry(entry.key, entry.entry_bytes, (now_ns - entry.put_ns) // NS_PER_MS, left)


def row_of(entry: Entry, content: bytes | bytearray, vector: bytes | None, behind_ns: int) -> Row:
    """Return an entry as it is on disk, where times are of the day: ``behind_ns`` is what the clock is behind that."""
    expires = None if entry.expires_ns == NEVER else (entry.expires_ns + behind_ns) // NS_PER_MS
    put_ms = (entry.put_ns + behind_ns) // NS_PER_MS
    size = 0 if vector is None else len(vector)
    return Row(
        entry.key, entry.form, put_ms, expires, entry.cost_ms, entry.tags, len(content), size, vector, content
    )


def entry_of(row: Row, beside_bytes: int, behind_ns: int) -> Entry:
    """Return the entry of what is on disk."""
    ttl = None if row.expires_ms is None else max(1, row.expires_ms - row.put_ms) * NS_PER_MS
    put_ns = row.put_ms * NS_PER_MS - behind_ns
    found = Entry(
        row.key, Form(row.form), row.content_bytes, put_ns, ttl, row.cost_ms, row.tags, beside_bytes
    )
    if row.used_ms is not None:
        found.used_ns = max(put_ns, row.used_ms * NS_PER_MS - behind_ns)
    return found

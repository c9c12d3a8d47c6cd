"""What the stores are made of: scopes, what is put and found, and the two protocols that a kind implements."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from protocol.record import Record
from protocol.store_results import StoreEntry, StoreFigures
from protocol.vocabulary import StoreKind, StorePreset, VectorMetric
from worker.plugins import CancelToken, Consumers, LimitedConsumer

PERSISTENT, SCRATCH, MAKING = ".store", ".spill", ".making"
"""Ends of files' names: of what is there again after a restart, of what is no store's any more then, and of either
before it is whole."""


def named(file: Path, end: str) -> Path:
    """Return a file with an end of its name."""
    return file.with_name(file.name + end)


class Scope(NamedTuple):
    """Whose it is. A pair: no user and project together make another's."""

    user_id: str
    project_id: str


class Form(IntEnum):
    """What an entry's bytes are."""

    JSON = 0
    BYTES = 1


class Content(NamedTuple):
    """What is stored of an entry."""

    data: bytes | bytearray
    form: Form = Form.JSON


class Row(NamedTuple):
    """An entry as it is in a file. Times are of the day, in milliseconds."""

    key: str
    form: int
    put_ms: int
    expires_ms: int | None
    cost_ms: float
    tags: tuple[str, ...]
    content_bytes: int
    vector_bytes: int = 0
    vector: bytes | None = None
    """None where the kind has none, or only what is known about it was read."""
    content: bytes | bytearray | None = None
    """None where only what is known about it was read."""
    used_ms: int | None = None
    """When it was used last; None where its file says no use after it was put."""


Vector = Any
"""Numbers: a list or tuple of them, or an array."""


class Item(Record):
    """What is to be put."""

    key: str
    content: Content
    vector: Vector | None = None
    cost_ms: float | None = None
    ttl_ms: int | None = None
    tags: tuple[str, ...] = ()
    tokens: Sequence[int] | None = None
    """Of which it was made, from a prompt's beginning on; then ``key`` is the model's."""
    goes_on: bool = False
    """Whether it has what was made of the last of them alone, and entries before it have the rest."""


class Put(Record):
    """What came of it."""

    entry_bytes: int
    evicted_entries: int = 0
    reason: str | None = None
    """Why it was not stored; then all is as before."""


class Found(Record):
    """A copy of an entry."""

    content: Content
    age_ms: int


class Question(Record):
    """What is searched for: one of vector, text and tokens."""

    vector: Vector | None
    text: str | None
    limit: int
    tags: tuple[str, ...] = ()
    tokens: Sequence[int] | None = None
    """A prompt's, and whose."""
    model: str | None = None


class Hit(Record):
    """An entry that is near."""

    key: str
    score: float
    """The higher, the nearer."""
    content: Content


class Page(Record):
    """Some of the entries, by key."""

    entries: tuple[StoreEntry, ...]
    next: str | None


class FolderRequest(Record):
    """Which texts of a folder are to be loaded."""

    folder: str
    extensions: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    chunk_bytes: int = 2_000


class Choice(Record):
    """Which entries: exactly one is not None."""

    key: str | None = None
    tag: str | None = None
    prefix: str | None = None


class Deleted(Record):
    """Entries that went, and the bytes that they took, in memory and on disk."""

    entries: int
    bytes: int


class Cleared(Record):
    """What entries took, and what of that the system has back."""

    bytes: int
    returned_bytes: int


class Options(Record):
    """How a store is to behave; None where its kind decides."""

    preset: StorePreset | None = None
    max_bytes: int | None = None
    max_entries: int | None = None
    ttl_ms: int | None = None
    dimensions: int | None = None
    metric: VectorMetric | None = None
    persist: bool | None = None

    def over(self, others: "Options") -> "Options":
        """Return others, but for what is given here."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        found: Options = replace(others, **given)
        return found


class Store(Protocol):
    """What one scope keeps under one name. Methods are called by any thread, and by several at once."""

    @property
    def limit_bytes(self) -> int:
        """The most that it holds in memory."""
        ...

    @property
    def lasting(self) -> bool:
        """Whether it is there again after a restart."""
        ...

    @property
    def quick(self) -> bool:
        """Whether an entry is put and got in well under a millisecond: from memory, and small."""
        ...

    @property
    def problem(self) -> str | None:
        """What its disk had against the last change; None where it took it, and where nothing of it is on disk."""
        ...

    def check(self, content_bytes: int) -> None:
        """LimitExceededError where an entry of so many bytes is larger than the store may be."""
        ...

    def configure(self, options: Options) -> None:
        """Change the options that are given. InvalidRequestError for one that can't be while it is open."""
        ...

    def put(self, item: Item) -> Put:
        """Store an entry, in place of the one of that key. LimitExceededError for one larger than the store may be."""
        ...

    def get(self, key: str) -> Found | None:
        """Return a copy of an entry, and note the use."""
        ...

    def search(self, question: Question) -> tuple[Hit, ...]:
        """Return the nearest entries, the nearest first. UnsupportedError where the kind finds nothing so."""
        ...

    def prompt(self, keys: Iterable[str]) -> str | None:
        """Return entries as a text for a model's prompt; None where the kind has none."""
        ...

    def page(self, after: str | None, limit: int) -> Page:
        """Return the entries whose keys come after that one, sorted by key."""
        ...

    def delete(self, choice: Choice) -> Deleted:
        """Delete entries, in memory and on disk."""
        ...

    def clear(self) -> Cleared:
        """Delete all entries, in memory and on disk."""
        ...

    def close(self) -> Cleared:
        """Give the memory back; what is persistent stays on disk. Nothing is asked of it afterwards."""
        ...

    def figures(self) -> StoreFigures:
        """Return what it holds and saves."""
        ...


class EntryFile(Protocol):
    """What a store of entries asks of its file (``files.StoreFile``). Each call is one transaction.

    OutOfMemoryError where its file system is full: nothing was changed.
    """

    lasting: bool
    """Whether it is there after a restart."""
    read_ms: float
    """What reading an entry takes, as it was of late."""
    problem: str | None
    """What its disk had against the last change; None where it took it."""

    def set_options(self, options: Options) -> None:
        """Keep options."""
        ...

    def rows(self) -> list[Row]:
        """Return what is known about all entries."""
        ...

    def vectors(self) -> list[tuple[str, bytes]]:
        """Return all entries' vectors, by key."""
        ...

    def read(self, key: str) -> Content | None:
        """Return an entry's content; None where it is not there any more."""
        ...

    def change(self, writes: Iterable[Row] = (), deletes: Iterable[str] = ()) -> None:
        """Put entries, and delete others: all of it, or none."""
        ...

    def note_uses(self, used_ms: Mapping[str, int]) -> None:
        """Note when entries were used last."""
        ...

    def clear(self) -> None:
        """Delete all entries."""
        ...

    def rest(self) -> None:
        """Let go of the file where it was not used for a while."""
        ...

    def close(self) -> None:
        """Let go of it: nothing is read of it, or changed in it, afterwards."""
        ...


class Opened(NamedTuple):
    """A store, and whether it is new: neither open nor on disk before."""

    store: Store
    created: bool


class Kind(LimitedConsumer, Protocol):
    """All stores of one kind and name: the consumer that takes part when headroom is made, as all others up to ``tend``."""

    def tend(self) -> None:
        """Do what is due, about once a second: called by a thread of the stores' own."""
        ...

    def open(self, name: str, scope: Scope, options: Options, file: Path | None) -> Opened:
        """Open a store. ``file`` is where it may be on disk, without a suffix; None where nothing may be.

        InvalidRequestError for options that its kind has not.
        """
        ...


Embed = Callable[[Sequence[str], CancelToken], Sequence[Vector]]
"""Makes a vector of each text."""


class Tools(Record):
    """What stores use of the worker."""

    consumers: Consumers
    now_ns: Callable[[], int]
    """Monotonic."""
    utc_ms: Callable[[], int]
    """Time of day, which is the same after a restart."""
    folder: Path | None = None
    """Below which files go; None for none at all."""
    documents_root: Path | None = None
    """Below which folders of texts may be read; None for none at all."""
    tend_s: float | None = None
    """How often what is due is done unasked; None for never."""
    embed: Embed | None = None
    """Makes vectors of documents and of questions about them; None where callers give them, or none are wanted."""


KindOf = Callable[[str, Tools], Kind]
"""Called with the consumer's name."""

Home = tuple[StoreKind, str]
"""A kind and a store's name: what a consumer is of."""

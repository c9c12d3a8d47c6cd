"""What the stores' actions take: memory of an application that is bounded in bytes, priced, and kept apart by scope."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from protocol import vocabulary as words
from protocol.params import (
    Choice,
    Choosing,
    Name,
    Params,
    Part,
    SizeBytes,
    Way,
    at_most,
    at_most_one,
    exactly_one,
)
from protocol.vocabulary import INT64_MAX

KEY_MAX = 1024
TAGS_MAX = 32
DIMENSIONS_MAX = 65_536
ENTRIES_MAX = 1_000
TOKENS_MAX = 131_072
TOKEN_MAX = 2**31 - 1

DEFAULT_USER, DEFAULT_PROJECT = "default_user", "default"
"""The scope of a request that names none."""

Key = Annotated[str, Field(min_length=1, max_length=KEY_MAX)]
Number = Annotated[int, Field(ge=1, le=INT64_MAX)]
Lifetime = Annotated[int, Field(ge=1, le=INT64_MAX)]
Tags = Annotated[tuple[Name, ...], Field(max_length=TAGS_MAX, strict=False), at_most(TAGS_MAX)]
Vector = Annotated[
    tuple[float, ...], Field(min_length=1, max_length=DIMENSIONS_MAX, strict=False), at_most(DIMENSIONS_MAX)
]
Tokens = Annotated[
    tuple[Annotated[int, Field(ge=0, le=TOKEN_MAX)], ...],
    Field(min_length=1, max_length=TOKENS_MAX, strict=False),
    at_most(TOKENS_MAX),
]
StoreKind = Annotated[words.StoreKind, Field(strict=False)]
StorePreset = Annotated[words.StorePreset, Field(strict=False)]
VectorMetric = Annotated[words.VectorMetric, Field(strict=False)]


class ScopedParams(Params):
    """What all requests about one store say first."""

    store: Name
    user_id: Name = DEFAULT_USER
    """With ``project_id`` the scope: a pair, and nothing that is done in one shows in another."""
    project_id: Name = DEFAULT_PROJECT


class StoreOptions(Part):
    """How a store is to behave; what is left out is as its kind, or what is on disk, says."""

    preset: StorePreset | None = None
    """Options that go together; those given beside it count."""
    max_bytes: SizeBytes | None = None
    """The most that it holds; room is made before an entry is taken."""
    max_entries: Number | None = None
    ttl_ms: Lifetime | None = None
    """Entries go this long after they were put, or last used where that renews them."""
    dimensions: Annotated[int, Field(ge=1, le=DIMENSIONS_MAX)] | None = None
    """Of its vectors."""
    metric: VectorMetric | None = None
    """How near vectors are."""
    persist: bool | None = None
    """Whether it is on disk, too, and there again after a restart: below ``--store-folder``."""


class StoreOpenParams(ScopedParams):
    """Open a store in a scope, or find it open; its options change to those that are given."""

    kind: StoreKind
    options: StoreOptions | None = None


class StorePutParams(ScopedParams, Choosing):
    """Put an entry into a store, in place of the one of that key. Nothing is stored where that fails."""

    choices: ClassVar = (at_most_one("value", "allocation_id"),)

    key: Key
    value: Any = None
    """Whatever JSON says; it is answered as it was sent."""
    allocation_id: Name | None = None
    """In place of a value: the bytes of an allocation, which are copied."""
    vector: Vector | None = None
    tokens: Tokens | None = None
    """Of a store of kind ``kv``: what the tensors are of, from a prompt's beginning on. ``key`` then names the model, and all that its tensors depend on."""
    cost_ms: Annotated[float, Field(ge=0, le=INT64_MAX)] | None = None
    """What making it again takes, in milliseconds: the dearer, the longer it stays."""
    ttl_ms: Lifetime | None = None
    """Null for the store's."""
    tags: Tags = ()


class StoreGetParams(ScopedParams):
    """Get a copy of an entry. What is not there is not made."""

    key: Key


class StoreSearchParams(ScopedParams, Choosing):
    """Find the entries nearest to a vector or a text, or those that a prompt begins with."""

    choices: ClassVar = (
        exactly_one("vector", "text", "tokens"),
        Choice("key is needed with tokens, and with them alone", Way("key", "tokens"), Way()),
    )

    vector: Vector | None = None
    text: Annotated[str, Field(min_length=1, max_length=65_536)] | None = None
    tokens: Tokens | None = None
    """A prompt, for a store of kind ``kv``: what was put for a beginning of it is found, the longest first. With ``key``."""
    key: Key | None = None
    """The model of ``tokens``, as it was named when they were put."""
    limit: Annotated[int, Field(ge=1, le=ENTRIES_MAX)] = 10
    tags: Tags = ()
    """Only entries that have all of these."""


class StoreLoadFolderParams(ScopedParams):
    """Load a folder of texts into a store of documents: what is new or changed is read, what is gone is deleted."""

    folder: Annotated[str, Field(min_length=1, max_length=4096)]
    """Below ``--documents-root``; ``.`` is that folder itself. Links that lead out of it are refused."""
    extensions: Annotated[tuple[Name, ...], Field(max_length=TAGS_MAX, strict=False), at_most(TAGS_MAX)] = ()
    """Only files that end so: ``.md``, ``py``; empty for all."""
    excludes: Annotated[tuple[Name, ...], Field(max_length=TAGS_MAX, strict=False), at_most(TAGS_MAX)] = ()
    """Patterns of names, or of paths within the folder, that are left out: ``*.min.js``, ``build``."""
    chunk_bytes: Annotated[int, Field(ge=64, le=1_048_576)] = 2_000
    """The most that a piece has, in UTF-8; texts are cut between paragraphs, lines or words."""


class StoreListParams(ScopedParams):
    """List a store's entries by key, a page at a time."""

    after: Key | None = None
    """The ``next`` of the page before."""
    limit: Annotated[int, Field(ge=1, le=ENTRIES_MAX)] = 100


class StoreDeleteParams(ScopedParams, Choosing):
    """Delete entries: one, those with a tag, or those whose keys begin alike."""

    choices: ClassVar = (exactly_one("key", "tag", "prefix"),)

    key: Key | None = None
    tag: Name | None = None
    prefix: Key | None = None


class StoreClearParams(ScopedParams):
    """Delete all entries of a store, which stays open."""


class StoreCloseParams(ScopedParams):
    """Close a store: its memory goes back, and what of it is persistent stays on disk until it is opened again."""


class StoreDeleteScopeParams(Params):
    """Delete all that is kept of a user, or of one project of theirs, in memory and on disk."""

    user_id: Name
    project_id: Name | None = None
    """Null for all of the user's."""


class StoreStatsParams(Params):
    """Ask what the stores of a scope hold, and what they save."""

    store: Name | None = None
    """Null for all of the scope."""
    user_id: Name = DEFAULT_USER
    project_id: Name = DEFAULT_PROJECT

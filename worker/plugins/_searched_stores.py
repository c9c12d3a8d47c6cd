"""Vectors and preferences of ``host.stores``. What these are is in worker/stores; see docs/stores.md."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from worker.core.cancellation import CancelToken
from worker.core.records import no_report

ScopeOf = tuple[str, str]
"""A user and a project: a pair, and nothing that is done in one shows in another."""


class Near(NamedTuple):
    """What was found."""

    key: str
    score: float
    """The higher, the nearer."""
    value: Any
    """A copy of what was put beside the vector; a ``Preference`` of preferences."""


class Preference(NamedTuple):
    """What is known."""

    value: Any
    description: str | None
    timestamp: str | int | None


class LoadedFolder(NamedTuple):
    """What came of loading a folder, in files."""

    loaded: int
    unchanged: int
    """As they were when they were loaded before: not read again."""
    removed: int
    """Loaded before, and gone, or left out now."""
    refused: tuple[tuple[str, str], ...]
    """Paths, and why; at most 1,000."""


class Documents(Protocol):
    """Texts of a project in pieces, found by their words, by vectors, or by both."""

    def put(
        self,
        scope: ScopeOf,
        key: str,
        text: str,
        *,
        vector: Any = None,
        tags: Iterable[str] = (),
        **said: Any,
    ) -> None:
        """Put a text, with what else is said of it. LimitExceededError where it does not fit, and nothing was changed."""
        ...

    def load_folder(
        self, scope: ScopeOf, folder: str, *, extensions: Iterable[str] = (), excludes: Iterable[str] = (),
        chunk_bytes: int = 2_000, token: CancelToken | None = None,
        report: Callable[[int, int], None] = no_report,
    ) -> LoadedFolder:  # fmt: skip
        """Load a folder below ``--documents-root``: what is new or changed is read, what is gone is deleted.

        ``report`` is told of bytes of files, done and in all. UnsupportedError where the operator named no root,
        InvalidRequestError for a folder that is none below it.
        """
        ...

    def search(
        self, scope: ScopeOf, text: str | None = None, *, vector: Any = None, limit: int = 10,
        tags: Iterable[str] = (),
    ) -> list[Near]:  # fmt: skip
        """Return the pieces nearest to a text, by its words and by what ``--documents-embedder`` makes of it, or to a vector."""
        ...

    def delete(
        self, scope: ScopeOf, key: str | None = None, *, tag: str | None = None, prefix: str | None = None
    ) -> int:
        """Delete what one of these chooses. Returns how many pieces. ValueError for none of them, or several."""
        ...


class Vectors(Protocol):
    """Vectors, each with a value that JSON can say, or bytes. Found exactly, for what float16 keeps of them."""

    def put(
        self, scope: ScopeOf, key: str, vector: Any, value: Any = None, *, tags: Iterable[str] = (),
        ttl_s: float | None = None,
    ) -> None:  # fmt: skip
        """Put a list of numbers or an array, in place of the one of that key.

        InvalidRequestError for one of other dimensions, or with what is no finite number; LimitExceededError where it does
        not fit, and nothing was changed; TypeError for a value that is neither JSON nor bytes.
        """
        ...

    def get(self, scope: ScopeOf, key: str) -> Any:
        """Return a copy of a key's value, or None."""
        ...

    def search(self, scope: ScopeOf, vector: Any, *, limit: int = 10, tags: Iterable[str] = ()) -> list[Near]:
        """Return those nearest to a vector that have all of the tags, nearest first. Nothing is opened for that."""
        ...

    def delete(
        self, scope: ScopeOf, key: str | None = None, *, tag: str | None = None, prefix: str | None = None
    ) -> int:
        """Delete what one of these chooses. Returns how many. ValueError for none of them, or several."""
        ...


class Preferences(Protocol):
    """What is known of a user or project: small, and never given up."""

    def put(
        self, scope: ScopeOf, key: str, value: Any, *, description: str | None = None,
        timestamp: str | int | None = None, tags: Iterable[str] = (),
    ) -> None:  # fmt: skip
        """Put one, in place of the one of that key. LimitExceededError where it does not fit; TypeError for what is no JSON."""
        ...

    def get(self, scope: ScopeOf, key: str) -> Preference | None:
        """Return one, or None."""
        ...

    def all(self, scope: ScopeOf) -> dict[str, Preference]:
        """Return all of a scope, by key."""
        ...

    def search(self, scope: ScopeOf, text: str, *, limit: int = 10, tags: Iterable[str] = ()) -> list[Near]:
        """Return those in which words of the text occur, those with the most of them first."""
        ...

    def prompt(self, scope: ScopeOf, about: str | None = None) -> str:
        """Return all of a scope, or those that ``search`` finds for a text, as lines for a model's prompt."""
        ...

    def delete(
        self, scope: ScopeOf, key: str | None = None, *, tag: str | None = None, prefix: str | None = None
    ) -> int:
        """Delete what one of these chooses. Returns how many. ValueError for none of them, or several."""
        ...

"""Vectors and preferences of ``host.stores``. What these are is in worker/stores; see docs/stores.md."""

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

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

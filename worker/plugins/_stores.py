"""What a plugin keeps memory in: ``host.stores``. What these are is in worker/stores; see docs/stores.md."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from worker.plugins._kv_stores import Kv
from worker.plugins._searched_stores import Documents, Preferences, ScopeOf, Vectors


class Cache(Protocol):
    """What can be made again. Values are what JSON can say, or bytes; what is handed out is a copy."""

    def get_or_make(
        self,
        scope: ScopeOf,
        key: str,
        make: Callable[[], Any],
        *,
        ttl_s: float | None = None,
        tags: tuple[str, ...] = (),
    ) -> Any:
        """Return a copy of what is there, or of what ``make`` returns, which is put with what it took.

        Who asks for the same meanwhile waits for it. Raises what ``make`` raises; nothing is put then. What has no place
        is returned all the same. TypeError for a value that is neither JSON nor bytes.
        """
        ...

    def get(self, scope: ScopeOf, key: str) -> Any:
        """Return a copy of what is there, or None. Nothing is opened or made for that."""
        ...

    def put(
        self, scope: ScopeOf, key: str, value: Any, *, cost_ms: float = 0.0, ttl_s: float | None = None,
        tags: tuple[str, ...] = (),
    ) -> bool:  # fmt: skip
        """Put a value, in place of the one of that key. False where there is no place for it now.

        TypeError for a value that is neither JSON nor bytes; LimitExceededError for one larger than the cache may be.
        """
        ...

    def delete(
        self, scope: ScopeOf, key: str | None = None, *, tag: str | None = None, prefix: str | None = None
    ) -> int:
        """Delete what one of these chooses. Returns how many entries. ValueError for none of them, or several."""
        ...


class Session(Protocol):
    """A session while it is used."""

    id: str
    created: bool
    """Whether it is new."""
    data: dict[str, Any]
    """What JSON can say; all of it is kept when the use ends well."""

    @property
    def history(self) -> list[Any]:
        """``data["history"]``: append to it; where it is too long, the oldest is cut off."""
        ...


class Sessions(Protocol):
    """What can't be made again: at most so many, for so long after their last use."""

    def use(self, scope: ScopeOf, session_id: str) -> AbstractContextManager[Session]:
        """``with sessions.use(scope, id) as session``: its data, kept when the block ends, unless by an exception.

        One use of a session at a time; others wait. OutOfMemoryError where it can't be kept; StoreNotFoundError where
        its store was closed, or its scope deleted, meanwhile: it is not there again by this.
        """
        ...

    def close(self, scope: ScopeOf, session_id: str) -> bool:
        """Forget a session. False where there is none."""
        ...


class HostStores(Protocol):
    """Stores by name; the same ones that ``store.*`` reaches. A scope's is opened when something is put there."""

    def cache(
        self, name: str, *, bytes: int | str | None = None, ttl_s: float | None = None, max_entries: int | None = None,  # noqa: A002 - the word of the protocol
        persist: bool = False,
    ) -> Cache:  # fmt: skip
        """Return a cache. ``bytes`` is the most of all scopes together: a number, or ``"512MiB"``; None for 256 MiB each."""
        ...

    def sessions(
        self, name: str, *, bytes: int | str | None = None, ttl_s: float = 1800.0, max_entries: int = 500,  # noqa: A002 - the word of the protocol
        persist: bool = False,
    ) -> Sessions:  # fmt: skip
        """Return a pool of sessions: so many a scope, each for so long after its last use."""
        ...

    def vectors(
        self, name: str, *, dimensions: int | None = None, metric: str = "cosine", bytes: int | str | None = None,  # noqa: A002 - the word of the protocol
        max_entries: int = 5000, ttl_s: float | None = None, persist: bool = False,
    ) -> Vectors:  # fmt: skip
        """Return vectors: so many a scope. ``metric`` is ``cosine``, ``dot`` or ``l2``; ``dimensions`` None for the first one's."""
        ...

    def documents(
        self, name: str, *, metric: str = "cosine", bytes: int | str | None = None, persist: bool = False,  # noqa: A002 - the word of the protocol
    ) -> Documents:  # fmt: skip
        """Return documents."""
        ...

    def preferences(
        self, name: str, *, bytes: int | str | None = None, max_entries: int = 1000, persist: bool = False,  # noqa: A002 - the word of the protocol
    ) -> Preferences:  # fmt: skip
        """Return preferences: so many a scope."""
        ...

    def kv(
        self, name: str, *, bytes: int | str | None = None, ttl_s: float | None = None, persist: bool = False,  # noqa: A002 - the word of the protocol
    ) -> Kv:  # fmt: skip
        """Return tensors of the beginnings of prompts. ``bytes`` as of a cache."""
        ...

"""``host.stores``: the stores as code in this process uses them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from protocol.vocabulary import INT64_MAX, StoreKind, VectorMetric
from worker.plugins import LimitExceededError, OutOfMemoryError
from worker.stores.base import Item
from worker.stores.host_kv import Kv
from worker.stores.host_searched import Documents, Preferences, Vectors
from worker.stores.named import DIMENSIONS_MAX, Named, Pair, content_of, ms, options_of, value_of, within
from worker.stores.registry import Stores


class HostStores:
    """Stores by name."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def cache(
        self, name: str, *, bytes: int | str | None = None, ttl_s: float | None = None, max_entries: int | None = None,  # noqa: A002 - the word of the protocol
        persist: bool = False,
    ) -> "Cache":  # fmt: skip
        """Return a cache."""
        return Cache(
            Named(self._stores, name, StoreKind.CACHE, options_of(bytes, ttl_s, max_entries, persist=persist))
        )

    def sessions(
        self, name: str, *, bytes: int | str | None = None, ttl_s: float = 1800.0, max_entries: int = 500,  # noqa: A002 - the word of the protocol
        persist: bool = False,
    ) -> "Sessions":  # fmt: skip
        """Return a pool of sessions."""
        options = options_of(bytes, ttl_s, max_entries, persist=persist)
        return Sessions(Named(self._stores, name, StoreKind.SESSIONS, options))

    def vectors(
        self, name: str, *, dimensions: int | None = None, metric: str = "cosine", bytes: int | str | None = None,  # noqa: A002 - the word of the protocol
        max_entries: int = 5000, ttl_s: float | None = None, persist: bool = False,
    ) -> Vectors:  # fmt: skip
        """Return vectors."""
        options = options_of(bytes, ttl_s, max_entries, persist=persist)
        within("dimensions", dimensions, 1, DIMENSIONS_MAX)
        options = replace(options, dimensions=dimensions, metric=VectorMetric(metric))
        return Vectors(Named(self._stores, name, StoreKind.VECTORS, options))

    def documents(
        self, name: str, *, metric: str = "cosine", bytes: int | str | None = None, persist: bool = False,  # noqa: A002 - the word of the protocol
    ) -> Documents:  # fmt: skip
        """Return documents."""
        options = replace(options_of(bytes, None, None, persist=persist), metric=VectorMetric(metric))
        return Documents(Named(self._stores, name, StoreKind.DOCUMENTS, options))

    def preferences(
        self, name: str, *, bytes: int | str | None = None, max_entries: int = 1000, persist: bool = False,  # noqa: A002 - the word of the protocol
    ) -> Preferences:  # fmt: skip
        """Return preferences."""
        options = options_of(bytes, None, max_entries, persist=persist)
        return Preferences(Named(self._stores, name, StoreKind.PREFERENCES, options))

    def kv(
        self, name: str, *, bytes: int | str | None = None, ttl_s: float | None = None, persist: bool = False,  # noqa: A002 - the word of the protocol
    ) -> Kv:  # fmt: skip
        """Return tensors of the beginnings of prompts."""
        return Kv(Named(self._stores, name, StoreKind.KV, options_of(bytes, ttl_s, None, persist=persist)))


class Cache:
    """What can be made again."""

    def __init__(self, named: Named) -> None:
        self._named = named

    def get_or_make(
        self,
        scope: Pair,
        key: str,
        make: Callable[[], Any],
        *,
        ttl_s: float | None = None,
        tags: tuple[str, ...] = (),
    ) -> Any:
        """Return what is there, or what ``make`` returns, which is put with what it took."""
        found = self._named.found(scope, key)
        if found is not None:
            return value_of(found.content)
        with self._named.turn(scope, key):
            found = self._named.found(scope, key)
            if found is not None:  # made meanwhile
                return value_of(found.content)
            begun = time.perf_counter()
            value = make()
            cost_ms = (time.perf_counter() - begun) * 1000
            content = content_of(value)
            with suppress(LimitExceededError, OutOfMemoryError):
                item = Item(key, content, cost_ms=cost_ms, ttl_ms=ms(ttl_s), tags=tags)
                self._named.put(scope, item)
            return value_of(content)  # as all others get it: a copy, and in JSON's types

    def get(self, scope: Pair, key: str) -> Any:
        """Return a copy of what is there, or None."""
        found = self._named.found(scope, key)
        return None if found is None else value_of(found.content)

    def put(
        self, scope: Pair, key: str, value: Any, *, cost_ms: float = 0.0, ttl_s: float | None = None,
        tags: tuple[str, ...] = (),
    ) -> bool:  # fmt: skip
        """Put a value."""
        within("cost_ms", cost_ms, 0, INT64_MAX)
        item = Item(key, content_of(value), cost_ms=cost_ms, ttl_ms=ms(ttl_s), tags=tags)
        return self._named.put(scope, item).reason is None

    def delete(
        self, scope: Pair, key: str | None = None, *, tag: str | None = None, prefix: str | None = None
    ) -> int:
        """Delete what one of these chooses."""
        return self._named.delete(scope, key, tag, prefix)


class Session:
    """A session while it is used."""

    def __init__(self, session_id: str, data: dict[str, Any], *, created: bool) -> None:
        self.id = session_id
        self.data = data
        self.created = created

    @property
    def history(self) -> list[Any]:
        """What was said, the oldest first."""
        history: list[Any] = self.data.setdefault("history", [])
        return history


class Sessions:
    """What can't be made again."""

    def __init__(self, named: Named) -> None:
        self._named = named

    @contextmanager
    def use(self, scope: Pair, session_id: str) -> Iterator[Session]:
        """Use a session, one at a time."""
        with self._named.turn(scope, session_id):
            store = self._named.existing(scope)
            found = None if store is None else store.get(session_id)
            data = {} if found is None else value_of(found.content)
            session = Session(session_id, data, created=found is None)
            yield session
            content = content_of(session.data)
            if found is None or content != found.content:
                item = Item(session_id, content)
                # Into the store that it is of: one that was deleted meanwhile is not to be there again by this.
                put = self._named.put(scope, item) if store is None else store.put(item)
                if put.reason is not None:
                    raise OutOfMemoryError(f"session {session_id!r} is not kept: {put.reason}")

    def close(self, scope: Pair, session_id: str) -> bool:
        """Forget a session."""
        return self._named.delete(scope, session_id) > 0

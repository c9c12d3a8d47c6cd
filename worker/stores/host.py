"""``host.stores``: the stores as code in this process uses them."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from protocol.vocabulary import StoreKind
from worker.core.sure_lock import SureLock
from worker.core.text import size_bytes
from worker.plugins import LimitExceededError, OutOfMemoryError
from worker.stores.base import Choice, Content, Form, Found, Item, Options, Scope, Store
from worker.stores.entries import EntryKind
from worker.stores.registry import Stores

Pair = tuple[str, str]


class HostStores:
    """Stores by name."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def cache(
        self, name: str, *, bytes: int | str | None = None, ttl_s: float | None = None, max_entries: int | None = None,  # noqa: A002
        persist: bool = False,
    ) -> "Cache":  # fmt: skip
        """Return a cache."""
        return Cache(
            _Named(self._stores, name, StoreKind.CACHE, _options(bytes, ttl_s, max_entries, persist=persist))
        )

    def sessions(
        self, name: str, *, bytes: int | str | None = None, ttl_s: float = 1800.0, max_entries: int = 500,  # noqa: A002
        persist: bool = False,
    ) -> "Sessions":  # fmt: skip
        """Return a pool of sessions."""
        options = _options(bytes, ttl_s, max_entries, persist=persist)
        return Sessions(_Named(self._stores, name, StoreKind.SESSIONS, options))


class _Named:
    """All scopes' stores of one name, each opened when something is put into it."""

    def __init__(self, stores: Stores, name: str, kind: StoreKind, options: Options) -> None:
        self.stores = stores
        self.name = name
        self.kind = kind
        self.options = options
        self._busy = _Turns()

    def opened(self, scope: Pair) -> Store:
        """Return a scope's store, opened if need be."""
        of = Scope(*scope)
        store = self.stores.find(self.name, of)
        if store is None:
            store = self.stores.open(self.name, of, self.kind, self.options).store
            consumer = self.stores.kind((self.kind, self.name))
            if isinstance(consumer, EntryKind):
                consumer.max_bytes = self.options.max_bytes
        return store

    def found(self, scope: Pair, key: str) -> Found | None:
        """Return an entry; a scope that nothing was put into is not opened for it, but where it is on disk."""
        of = Scope(*scope)
        store = self.stores.find(self.name, of)
        if store is None and self.options.persist and self.stores.on_disk(of, (self.kind, self.name)):
            store = self.opened(scope)
        return None if store is None else store.get(key)

    def turn(self, scope: Pair, key: str) -> Any:
        """Let one at a time work with a key: ``with named.turn(scope, key)``."""
        return self._busy.turn((*scope, key))


class _Turns:
    """Locks by name, as long as somebody has one."""

    def __init__(self) -> None:
        self._lock = SureLock()
        # All mutable state: each with how many have it or wait for it.
        self._busy: dict[tuple[str, ...], tuple[SureLock, int]] = {}

    @contextmanager
    def turn(self, name: tuple[str, ...]) -> Iterator[None]:
        with self._lock:
            lock, count = self._busy.get(name, (SureLock(), 0))
            self._busy[name] = (lock, count + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                count = self._busy[name][1]
                if count > 1:
                    self._busy[name] = (lock, count - 1)
                else:
                    del self._busy[name]


class Cache:
    """What can be made again."""

    def __init__(self, named: _Named) -> None:
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
            return _value(found)
        with self._named.turn(scope, key):
            found = self._named.found(scope, key)
            if found is not None:  # made meanwhile
                return _value(found)
            begun = time.perf_counter()
            value = make()
            cost_ms = (time.perf_counter() - begun) * 1000
            try:
                self.put(scope, key, value, cost_ms=cost_ms, ttl_s=ttl_s, tags=tags)
            except (LimitExceededError, OutOfMemoryError):
                return value
            return value

    def get(self, scope: Pair, key: str) -> Any:
        """Return a copy of what is there, or None."""
        found = self._named.found(scope, key)
        return None if found is None else _value(found)

    def put(
        self, scope: Pair, key: str, value: Any, *, cost_ms: float = 0.0, ttl_s: float | None = None,
        tags: tuple[str, ...] = (),
    ) -> bool:  # fmt: skip
        """Put a value."""
        item = Item(key, _content(value), cost_ms=cost_ms, ttl_ms=_ms(ttl_s), tags=tags)
        return self._named.opened(scope).put(item).reason is None

    def delete(
        self, scope: Pair, key: str | None = None, *, tag: str | None = None, prefix: str | None = None
    ) -> int:
        """Delete what one of these chooses."""
        if sum(each is not None for each in (key, tag, prefix)) != 1:
            raise ValueError("exactly one of key, tag and prefix is needed")
        store = self._named.stores.find(self._named.name, Scope(*scope))
        return 0 if store is None else store.delete(Choice(key, tag, prefix)).entries


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

    def __init__(self, named: _Named) -> None:
        self._named = named

    @contextmanager
    def use(self, scope: Pair, session_id: str) -> Iterator[Session]:
        """Use a session, one at a time."""
        with self._named.turn(scope, session_id):
            found = self._named.found(scope, session_id)
            data = {} if found is None else _value(found)
            session = Session(session_id, data, created=found is None)
            yield session
            content = _content(session.data)
            if found is None or content != found.content:
                put = self._named.opened(scope).put(Item(session_id, content))
                if put.reason is not None:
                    raise OutOfMemoryError(f"session {session_id!r} is not kept: {put.reason}")

    def close(self, scope: Pair, session_id: str) -> bool:
        """Forget a session."""
        store = self._named.stores.find(self._named.name, Scope(*scope))
        return store is not None and store.delete(Choice(key=session_id)).entries > 0


def _options(
    size: int | str | None, ttl_s: float | None, max_entries: int | None, *, persist: bool
) -> Options:
    most = size_bytes(size) if isinstance(size, str) else size
    return Options(max_bytes=most, ttl_ms=_ms(ttl_s), max_entries=max_entries, persist=persist or None)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1000))


def _content(value: Any) -> Content:
    if isinstance(value, bytes | bytearray | memoryview):
        return Content(bytes(value), Form.BYTES)
    return Content(orjson.dumps(value))


def _value(found: Found) -> Any:
    data = found.content.data
    return bytes(data) if found.content.form is Form.BYTES else orjson.loads(data)

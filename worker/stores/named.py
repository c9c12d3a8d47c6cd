"""Stores by name, as code in this process opens and fills them, whatever their kind."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import orjson

from protocol.vocabulary import INT64_MAX, StoreKind
from worker.core.finite_json import json_of
from worker.core.sure_lock import SureLock
from worker.core.text import size_bytes
from worker.plugins import StoreNotFoundError
from worker.stores.base import Choice, Content, Form, Found, Item, Options, Put, Scope, Store
from worker.stores.entries import EntryKind
from worker.stores.registry import Stores

Pair = tuple[str, str]
NAME_MAX, KEY_MAX = 256, 1024
"""In characters, as the protocol has it; and so are these."""
DIMENSIONS_MAX, RESULTS_MAX = 65_536, 1_000


class Named:
    """All scopes' stores of one name, each opened when something is put into it."""

    def __init__(self, stores: Stores, name: str, kind: StoreKind, options: Options) -> None:
        self.stores = stores
        self.name = _checked(name, NAME_MAX, "a store's name")
        self.kind = kind
        self.options = options
        self._busy = _Turns()

    def opened(self, scope: Pair) -> Store:
        """Return a scope's store, opened if need be."""
        of = _scope(scope)
        return self.stores.find(self.name, of) or self._open(of)

    def put(self, scope: Pair, item: Item) -> Put:
        """Put an entry. ValueError for a key that no request could have."""
        _checked(item.key, KEY_MAX, "a key")
        try:
            return self.opened(scope).put(item)
        except (
            StoreNotFoundError
        ):  # it was closed meanwhile, or deleted with its scope: this comes after that
            return self._open(_scope(scope)).put(item)

    def existing(self, scope: Pair) -> Store | None:
        """Return a scope's store; one that nothing was put into is not opened for that, but where it is on disk."""
        of = _scope(scope)
        store = self.stores.find(self.name, of)
        if store is None and self.options.persist and self.stores.on_disk(of, (self.kind, self.name)):
            store = self.opened(scope)
        return store

    def found(self, scope: Pair, key: str) -> Found | None:
        """Return an entry, where there is one."""
        store = self.existing(scope)
        return None if store is None else store.get(key)

    def delete(self, scope: Pair, key: str | None, tag: str | None = None, prefix: str | None = None) -> int:
        """Delete what one of these chooses. Returns how many entries. ValueError for none of them, or several."""
        if sum(each is not None for each in (key, tag, prefix)) != 1:
            raise ValueError("exactly one of key, tag and prefix is needed")
        store = self.existing(scope)
        return 0 if store is None else store.delete(Choice(key, tag, prefix)).entries

    def turn(self, scope: Pair, key: str) -> AbstractContextManager[None]:
        """Let one at a time work with a key: ``with named.turn(scope, key)``."""
        return self._busy.turn((*_scope(scope), key))

    def _open(self, scope: Scope) -> Store:
        store = self.stores.open(self.name, scope, self.kind, self.options).store
        consumer = self.stores.kind((self.kind, self.name))
        if isinstance(consumer, EntryKind):
            consumer.max_bytes = self.options.max_bytes
        return store


def _scope(scope: object) -> Scope:
    """Return a scope that a request could have, too."""
    if not isinstance(scope, tuple | list) or len(scope) != 2:  # noqa: PLR2004 - a scope is a user and a project
        raise ValueError(f"a scope is a pair, (user, project), not {scope!r}")
    user, project = scope
    return Scope(_checked(user, NAME_MAX, "a user"), _checked(project, NAME_MAX, "a project"))


def _checked(name: object, most: int, what: str) -> str:
    """Return a name that a request could have, too."""
    if not isinstance(name, str) or not 0 < len(name) <= most:
        said = f"not {len(name)}" if isinstance(name, str) else f"not a {type(name).__name__}"
        raise ValueError(f"{what} has 1 to {most} characters, {said}")
    return name


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


def options_of(
    size: int | str | None, ttl_s: float | None, max_entries: int | None, *, persist: bool
) -> Options:
    """Return options from sizes and times as people say them. ValueError for what none can be."""
    most = size_bytes(size) if isinstance(size, str) else size
    for said, number in (("bytes", most), ("max_entries", max_entries)):
        within(said, number, 1, INT64_MAX)
    return Options(max_bytes=most, ttl_ms=ms(ttl_s), max_entries=max_entries, persist=persist or None)


def ms(seconds: float | None) -> int | None:
    """Return seconds in milliseconds, at least one. ValueError for what is no time."""
    if seconds is not None and not 0 < seconds <= INT64_MAX // 1000:
        raise ValueError(
            f"ttl_s is above 0, and at most {INT64_MAX // 1000}, not {seconds}; leave it out for the store's own"
        )
    return None if seconds is None else max(1, round(seconds * 1000))


def within(said: str, number: float | None, least: int, most: int) -> None:
    """Check a number that may be left out. ValueError for one that is beyond its limits, or none."""
    if number is not None and not least <= number <= most:
        raise ValueError(f"{said} is from {least} to {most}, not {number}")


def content_of(value: Any) -> Content:
    """Return a value as it is stored: bytes as they are, others as JSON. TypeError for what is neither.

    ValueError for a number that JSON has not: NaN, and what is infinite.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return Content(bytes(value), Form.BYTES)
    return Content(json_of(value))


def value_of(content: Content) -> Any:
    """Return what was put."""
    return bytes(content.data) if content.form is Form.BYTES else orjson.loads(content.data)

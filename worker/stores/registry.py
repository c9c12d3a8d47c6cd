"""Which stores are open, by scope and name. Asking opens none."""

from collections.abc import Iterable
from importlib import import_module

from protocol.store_results import StoreFigures, StoreStatsResult
from protocol.vocabulary import StoreKind
from worker.core.sure_lock import SureLock
from worker.plugins import InvalidRequestError, StoreNotFoundError, UnsupportedError
from worker.stores.base import Cleared, Home, Kind, KindOf, Opened, Options, Scope, Store, Tools

KINDS: dict[StoreKind, str] = {
    StoreKind.CACHE: "worker.stores.cache:Caches",
    StoreKind.VECTORS: "worker.stores.vectors:Vectors",
    StoreKind.PREFERENCES: "worker.stores.preferences:Preferences",
}
"""Where each kind is, imported when the first store of it is opened."""


class _Open:
    """A store that is open, and the home that it is of."""

    __slots__ = ("home", "store")

    def __init__(self, home: Home, store: Store) -> None:
        self.home = home
        self.store = store


class Stores:
    """The stores of all scopes. Opening and closing go one after the other; what is open is used without this lock."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._lock = SureLock()
        # All mutable state.
        self._scopes: dict[Scope, dict[str, _Open]] = {}
        self._kinds: dict[Home, Kind] = {}

    def open(self, name: str, scope: Scope, kind: StoreKind, options: Options) -> Opened:
        """Open a store, or find it open, with these options from now on.

        InvalidRequestError where it is open as another kind, or for options that the kind has not.
        """
        with self._lock:
            known = self._scopes.get(scope, {}).get(name)
            if known is not None:
                if known.home[0] is not kind:
                    raise InvalidRequestError.at(
                        "data.kind", f"{name!r} is open as {known.home[0]}: close it first"
                    )
                known.store.configure(options)
                return Opened(known.store, created=False)
            home = (kind, name)
            new = home not in self._kinds
            consumer = self._kind(home) if new else self._kinds[home]
            opened = consumer.open(name, scope, options, None)
            if new:
                self._join(home, consumer)
            self._scopes.setdefault(scope, {})[name] = _Open(home, opened.store)
            return opened

    def get(self, name: str, scope: Scope) -> Store:
        """Return an open store. StoreNotFoundError."""
        known = self._scopes.get(scope, {}).get(name)
        if known is None:
            message = f"no store {name!r} is open in this scope: store.open opens it"
            raise StoreNotFoundError(message, store=name, user_id=scope.user_id, project_id=scope.project_id)
        return known.store

    def quick(self, name: str, scope: Scope) -> bool:
        """Tell whether what is asked of a store waits for nothing; of one that is not open, it does not."""
        known = self._scopes.get(scope, {}).get(name)
        return known is None or known.store.quick

    def close_store(self, name: str, scope: Scope) -> Cleared:
        """Close a store. StoreNotFoundError."""
        with self._lock:
            cleared = self.get(name, scope).close()
            self._leave(name, scope)
            return cleared

    def delete_scope(self, user_id: str, project_id: str | None) -> tuple[tuple[str, ...], int, int]:
        """Delete all that is kept of a scope, or of all of a user's. Returns stores' names, entries and bytes."""
        with self._lock:
            scopes = [
                each
                for each in self._scopes
                if each.user_id == user_id and project_id in {None, each.project_id}
            ]
            names: dict[str, None] = {}
            entries = size = 0
            for scope in scopes:
                for name, known in list(self._scopes[scope].items()):
                    entries += known.store.figures().entry_count
                    size += known.store.clear().bytes
                    known.store.close()
                    names[name] = None
                    self._leave(name, scope)
            return tuple(names), entries, size

    def stats(self, name: str | None, scope: Scope) -> StoreStatsResult:
        """Return what one store, or all of a scope, hold and save. StoreNotFoundError for one that is not open."""
        stores = (
            [each.store for each in self._scopes.get(scope, {}).values()]
            if name is None
            else [self.get(name, scope)]
        )
        rows = tuple(each.figures() for each in stores)
        return StoreStatsResult(
            entry_count=_sum(rows, "entry_count"),
            held_bytes=_sum(rows, "held_bytes"),
            limit_bytes=_sum(rows, "limit_bytes"),
            hits=_sum(rows, "hits"),
            misses=_sum(rows, "misses"),
            saved_ms=sum(each.saved_ms for each in rows),
            evictions=_sum(rows, "evictions"),
            price_ms_per_mib=min((e.price_ms_per_mib for e in rows if e.price_ms_per_mib is not None), default=None),
            stores=rows,
        )  # fmt: skip

    def close(self) -> None:
        """Close all: the worker ends."""
        with self._lock:
            for scope, stores in list(self._scopes.items()):
                for name, known in list(stores.items()):
                    known.store.close()
                    self._leave(name, scope)

    # ---- inside ----

    def _kind(self, home: Home) -> Kind:
        place = KINDS.get(home[0])
        if place is None:
            raise UnsupportedError(f"this worker has no stores of kind {home[0]}", kind=home[0])
        module, _, found = place.partition(":")
        try:
            kind: KindOf = getattr(import_module(module), found)
        except ModuleNotFoundError as error:
            message = f"stores of kind {home[0]} need {error.name}: pip install memory-worker[stores]"
            raise UnsupportedError(message, kind=home[0]) from error
        return kind(f"store:{home[0]}:{home[1]}", self._tools)

    def _join(self, home: Home, consumer: Kind) -> None:
        self._tools.consumers.add(consumer)
        self._kinds[home] = consumer

    def _leave(self, name: str, scope: Scope) -> None:
        home = self._scopes[scope].pop(name).home
        if not self._scopes[scope]:
            del self._scopes[scope]
        if not any(each.home == home for stores in self._scopes.values() for each in stores.values()):
            self._tools.consumers.remove(self._kinds.pop(home).consumer_id)


def _sum(rows: Iterable[StoreFigures], name: str) -> int:
    return sum(getattr(each, name) for each in rows)

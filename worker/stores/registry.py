"""Which stores are open, by scope and name. Asking opens none."""

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from protocol.store_results import StoreFigures, StoreStatsResult
from protocol.vocabulary import StoreKind
from worker.core.sure_lock import SureLock
from worker.plugins import (
    CancelToken,
    InvalidRequestError,
    LoadedFolder,
    StoreNotFoundError,
    UnsupportedError,
)
from worker.stores.base import (
    PERSISTENT,
    Cleared,
    FolderRequest,
    Home,
    Kind,
    KindOf,
    Opened,
    Options,
    Scope,
    Store,
    Tools,
    named,
)
from worker.stores.disk import is_there
from worker.stores.upkeep import Upkeep

if TYPE_CHECKING:
    from worker.stores.folder import StoreFolder

KINDS: dict[StoreKind, str] = {
    StoreKind.CACHE: "worker.stores.cache:Caches",
    StoreKind.SESSIONS: "worker.stores.sessions:SessionPools",
    StoreKind.VECTORS: "worker.stores.vectors:Vectors",
    StoreKind.DOCUMENTS: "worker.stores.documents:Documents",
    StoreKind.PREFERENCES: "worker.stores.preferences:Preferences",
    StoreKind.KV: "worker.stores.kv:KvStores",
}
"""Where each kind is, imported when the first store of it is opened."""


class _Open(NamedTuple):
    """A store that is open, and of which kind and name it is."""

    home: Home
    store: Store


class Stores:
    """The stores of all scopes. Opening and closing go one after the other; what is open is used without this lock."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._lock = SureLock()
        # All mutable state.
        self._scopes: dict[Scope, dict[str, _Open]] = {}
        self._kinds: dict[Home, Kind] = {}
        self._folder: StoreFolder | None = None
        self._upkeep = Upkeep(self.tend, tools.tend_s)

    def open(self, name: str, scope: Scope, kind: StoreKind, options: Options) -> Opened:
        """Open a store, or find it open, with these options from now on.

        InvalidRequestError where it is open as another kind, or for options that can't be met.
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
            opened = consumer.open(name, scope, options, self._file(scope, home))
            if new:
                try:
                    self._tools.consumers.add(consumer)
                except ValueError as error:  # a host has registered one of that name
                    opened.store.close()
                    raise InvalidRequestError.at("data.store", str(error)) from error
                self._kinds[home] = consumer
            # Readers have no lock: a table is put in place whole.
            self._scopes[scope] = {**self._scopes.get(scope, {}), name: _Open(home, opened.store)}
            self._upkeep.begin()
            return opened

    def kind(self, home: Home) -> Kind | None:
        """Return the consumer of a kind and name; None where no store of it is open."""
        return self._kinds.get(home)

    def find(self, name: str, scope: Scope) -> Store | None:
        """Return an open store, or None."""
        known = self._scopes.get(scope, {}).get(name)
        return None if known is None else known.store

    def on_disk(self, scope: Scope, home: Home) -> bool:
        """Tell whether there is a file of a store that persists. OutOfMemoryError where its disk does not say."""
        with self._lock:
            file = self._file(scope, home)
        return file is not None and is_there(named(file, PERSISTENT))

    def get(self, name: str, scope: Scope) -> Store:
        """Return an open store. StoreNotFoundError."""
        store = self.find(name, scope)
        if store is None:
            message = f"no store {name!r} is open in this scope: store.open opens it"
            raise StoreNotFoundError(message, store=name, user_id=scope.user_id, project_id=scope.project_id)
        return store

    def close_store(self, name: str, scope: Scope) -> Cleared:
        """Close a store. StoreNotFoundError."""
        with self._lock:
            self.get(name, scope)
            return self._close(name, scope)

    def delete_scope(self, user_id: str, project_id: str | None) -> tuple[tuple[str, ...], int, int]:
        """Delete all that is kept of a scope, or of all of a user's. Returns stores' names, entries and bytes."""
        with self._lock:
            folder = self._opened_folder()
            if folder is not None:
                folder.check()
            names: dict[str, None] = {}
            entries = size = 0
            for scope, name, known in list(self._all()):
                if scope.user_id == user_id and project_id in {None, scope.project_id}:
                    entries += 0 if known.store.lasting else known.store.figures().entry_count
                    size += self._close(name, scope).bytes
                    names[name] = None
            if folder is not None:
                left, more, on_disk = folder.delete(user_id, project_id)
                names.update(dict.fromkeys(left))
                entries, size = entries + more, size + on_disk
            return tuple(names), entries, size

    def load_folder(
        self,
        name: str,
        scope: Scope,
        request: FolderRequest,
        token: CancelToken,
        report: Callable[[int, int], None],
    ) -> LoadedFolder:
        """Load texts into a store of documents. StoreNotFoundError; UnsupportedError for a store of another kind."""
        store = self.get(name, scope)
        known = self._scopes.get(scope, {}).get(name)
        kind = StoreKind.DOCUMENTS if known is None else known.home[0]
        if kind is not StoreKind.DOCUMENTS:
            message = f"folders are loaded into stores of kind documents, and {name!r} is of kind {kind}"
            raise UnsupportedError(message, store=name, kind=kind)
        from worker.stores.folders import FolderLoader  # noqa: PLC0415 - only where texts are loaded

        loader = FolderLoader(self._tools.documents_root, self._tools.embed)
        return loader.load(store, request, token, report)

    def stats(self, name: str | None, scope: Scope) -> StoreStatsResult:
        """Return what one store, or all of a scope, hold and save. StoreNotFoundError for one that is not open."""
        stores = [each.store for each in self._scopes.get(scope, {}).values()]
        rows = tuple(each.figures() for each in (stores if name is None else [self.get(name, scope)]))
        prices = [each.price_ms_per_mib for each in rows if each.price_ms_per_mib is not None]
        return StoreStatsResult(
            entry_count=_sum(rows, "entry_count"),
            held_bytes=_sum(rows, "held_bytes"),
            limit_bytes=_sum(rows, "limit_bytes"),
            hits=_sum(rows, "hits"),
            misses=_sum(rows, "misses"),
            saved_ms=sum(each.saved_ms for each in rows),
            evictions=_sum(rows, "evictions"),
            price_ms_per_mib=min(prices, default=None),
            stores=rows,
            overhead_bytes=sum(each.overhead_bytes or 0 for each in rows),
        )

    def problems(self) -> list[str]:
        """Return what disks have against the files of open stores, without waiting for a store that is just opened."""
        stores = (known.store for scope in list(self._scopes.values()) for known in list(scope.values()))
        return [problem for each in stores if (problem := each.problem) is not None]

    def tend(self) -> None:
        """Do what is due in all stores."""
        for kind in tuple(self._kinds.values()):
            kind.tend()

    def close(self) -> None:
        """Close all: the worker ends."""
        self._upkeep.end()
        with self._lock:
            for scope, name, _ in list(self._all()):
                self._close(name, scope)
            if self._folder is not None:
                self._folder.close()
                self._folder = None

    # ---- inside, with the lock ----

    def _all(self) -> Iterator[tuple[Scope, str, _Open]]:
        for scope, stores in self._scopes.items():
            for name, known in stores.items():
                yield scope, name, known

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

    def _close(self, name: str, scope: Scope) -> Cleared:
        home, store = self._scopes[scope][name]
        cleared = store.close()
        left = {each: known for each, known in self._scopes[scope].items() if each != name}
        if left:
            self._scopes[scope] = left
        else:
            del self._scopes[scope]
        if not any(known.home == home for _, _, known in self._all()):
            self._tools.consumers.remove(self._kinds.pop(home).consumer_id)
        return cleared

    def _file(self, scope: Scope, home: Home) -> Path | None:
        folder = self._opened_folder()
        return None if folder is None else folder.file(scope, home)

    def _opened_folder(self) -> "StoreFolder | None":
        if self._folder is None and self._tools.folder is not None:
            from worker.stores.folder import StoreFolder  # noqa: PLC0415 - only where something persists

            self._folder = StoreFolder(self._tools.folder)
        return self._folder


def _sum(rows: Iterable[StoreFigures], name: str) -> int:
    return sum(getattr(each, name) for each in rows)

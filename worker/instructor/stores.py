"""The handlers of the stores' actions, wire to records and back."""

from collections.abc import Callable

import orjson

from protocol import store_params as p
from protocol import store_results as r
from protocol.results import AllocateResult
from worker.core.clock import NS_PER_S
from worker.instructor.binding import Bindings, Claims
from worker.interface.interface_memory import MemoryInterface
from worker.stores.base import Choice, Content, FolderRequest, Form, Found, Item, Options, Question, Scope
from worker.stores.registry import Stores
from worker.stream.work import Call, Claim

LEASE_NS = 60 * NS_PER_S
"""For which a copy of an entry's bytes is lent."""
_PURPOSE = "store.get"


class StoreHandlers:
    """What the instructor binds to the stores' actions. The stores are made when something first asks for them."""

    def __init__(self, memory: MemoryInterface, stores: Callable[[], Stores]) -> None:
        self._memory = memory
        self._stores = stores

    def bind_all(self, bindings: Bindings) -> None:
        """Bind the stores' actions."""
        bind = bindings.bind
        bind("store.open", self.open, self.claims_of_changing)
        bind("store.put", self.put, self.claims_of_putting)
        bind("store.get", self.get, self.claims_of_reading)
        bind("store.search", self.search, self.claims_of_long_reading)
        bind("store.load_folder", self.load_folder, self.claims_of_changing)
        bind("store.list", self.list, self.claims_of_long_reading)
        bind("store.delete", self.delete, self.claims_of_changing)
        bind("store.clear", self.clear, self.claims_of_changing, intervenes=True)
        bind("store.close", self.close, self.claims_of_changing, intervenes=True)
        bind("store.delete_scope", self.delete_scope, self.claims_of_delete_scope, intervenes=True)
        bind("store.stats", self.stats, self.claims_of_stats)

    def open(self, params: p.StoreOpenParams, _: Call) -> r.StoreOpenResult:
        """Open a store."""
        given = {} if params.options is None else dict(params.options)
        store, created = self._stores().open(params.store, _scope(params), params.kind, Options(**given))
        return r.StoreOpenResult(params.store, params.kind, created, store.limit_bytes)

    def put(self, params: p.StorePutParams, call: Call) -> r.StorePutResult:
        """Put an entry."""
        store = self._stores().get(params.store, _scope(params))
        if params.allocation_id is None:
            content = Content(orjson.dumps(params.value))
        else:
            store.check(self._memory.allocations.place_of(params.allocation_id)[1])
            content = Content(self._memory.contents.read(params.allocation_id, call.token), Form.BYTES)
        put = store.put(
            Item(
                params.key, content, params.vector, params.cost_ms, params.ttl_ms, params.tags, params.tokens
            )
        )
        return r.StorePutResult(put.reason is None, put.reason, put.entry_bytes, put.evicted_entries)

    def get(self, params: p.StoreGetParams, call: Call) -> r.StoreGetResult:
        """Get a copy of an entry."""
        found = self._stores().get(params.store, _scope(params)).get(params.key)
        if found is None:
            return _got(None, None, None)
        if found.content.form is Form.JSON:
            return _got(found, _json(found.content), None)
        lent = self._memory.contents.lend(found.content.data, _PURPOSE, LEASE_NS, call.token)
        return _got(found, None, lent)

    def search(self, params: p.StoreSearchParams, _: Call) -> r.StoreSearchResult:
        """Find the nearest entries."""
        store = self._stores().get(params.store, _scope(params))
        hits = store.search(
            Question(params.vector, params.text, params.limit, params.tags, params.tokens, params.key)
        )
        found = tuple(r.StoreHit(each.key, each.score, _json(each.content)) for each in hits)
        return r.StoreSearchResult(found, store.prompt([each.key for each in hits]))

    def load_folder(self, params: p.StoreLoadFolderParams, call: Call) -> r.StoreLoadFolderResult:
        """Load a folder of texts."""
        loaded = self._stores().load_folder(
            params.store,
            _scope(params),
            FolderRequest(params.folder, params.extensions, params.excludes, params.chunk_bytes),
            call.token,
            call.report,
        )
        refused = tuple(r.RefusedFile(*each) for each in loaded.refused)
        return r.StoreLoadFolderResult(loaded.loaded, loaded.unchanged, loaded.removed, refused)

    def list(self, params: p.StoreListParams, _: Call) -> r.StoreListResult:
        """List entries."""
        store = self._stores().get(params.store, _scope(params))
        page = store.page(params.after, params.limit)
        return r.StoreListResult(page.entries, page.next, store.prompt([each.key for each in page.entries]))

    def delete(self, params: p.StoreDeleteParams, _: Call) -> r.StoreDeleteResult:
        """Delete entries."""
        store = self._stores().get(params.store, _scope(params))
        deleted = store.delete(Choice(params.key, params.tag, params.prefix))
        return r.StoreDeleteResult(deleted.entries, deleted.bytes)

    def clear(self, params: p.StoreClearParams, _: Call) -> r.StoreClearResult:
        """Delete all entries."""
        cleared = self._stores().get(params.store, _scope(params)).clear()
        return r.StoreClearResult(cleared.bytes, cleared.returned_bytes)

    def close(self, params: p.StoreCloseParams, _: Call) -> r.StoreCloseResult:
        """Close a store."""
        cleared = self._stores().close_store(params.store, _scope(params))
        return r.StoreCloseResult(cleared.bytes, cleared.returned_bytes)

    def delete_scope(self, params: p.StoreDeleteScopeParams, _: Call) -> r.StoreDeleteScopeResult:
        """Delete all of a scope."""
        stores, entries, size = self._stores().delete_scope(params.user_id, params.project_id)
        return r.StoreDeleteScopeResult(stores, entries, size)

    def stats(self, params: p.StoreStatsParams, _: Call) -> r.StoreStatsResult:
        """Answer with what stores hold and save."""
        return self._stores().stats(params.store, Scope(params.user_id, params.project_id))

    # ---- what they claim ----

    def claims_of_reading(self, params: p.StoreGetParams) -> Claims:
        """Return that reads of one store go side by side, here where it waits for nothing."""
        return _claims(params, exclusive=False), self._quick(params)

    def claims_of_putting(self, params: p.StorePutParams) -> Claims:
        """Return that changes of one store go in arrival order, and what else is read meanwhile."""
        claims = _claims(params, exclusive=True)
        if params.allocation_id is None:
            return claims, self._quick(params)
        return (*claims, Claim(params.allocation_id, exclusive=False)), False

    def claims_of_long_reading(self, params: p.StoreListParams | p.StoreSearchParams) -> Claims:
        """Return that reads of one store go side by side, and that this one takes its time."""
        return _claims(params, exclusive=False), False

    def claims_of_changing(
        self,
        params: p.StoreOpenParams
        | p.StoreLoadFolderParams
        | p.StoreDeleteParams
        | p.StoreClearParams
        | p.StoreCloseParams,
    ) -> Claims:
        """Return that changes of one store go in arrival order, and that this one takes its time."""
        return _claims(params, exclusive=True), False

    def claims_of_stats(self, params: p.StoreStatsParams) -> Claims:
        """Return that it waits for what was sent before it about that store, or about any of the scope."""
        user, project = _scope_claims(Scope(params.user_id, params.project_id))
        if params.store is None:
            return (user, Claim(project.key, exclusive=True)), False
        return (user, project, Claim(f"{project.key}{_part(params.store)}", exclusive=False)), False

    def claims_of_delete_scope(self, params: p.StoreDeleteScopeParams) -> Claims:
        """Return that nothing else goes on in the scope."""
        user = _part(params.user_id)
        if params.project_id is None:
            return (Claim(f"stores {user}", exclusive=True),), False
        project = Claim(f"stores {user}{_part(params.project_id)}", exclusive=True)
        return (Claim(f"stores {user}", exclusive=False), project), False

    def _quick(self, params: p.ScopedParams) -> bool:
        store = self._stores().find(params.store, _scope(params))
        return store is None or store.quick


def _got(found: Found | None, value: orjson.Fragment | None, lent: AllocateResult | None) -> r.StoreGetResult:
    return r.StoreGetResult(
        found=found is not None,
        value=value,
        allocation_id=None if lent is None else lent.allocation_id,
        shared_memory=None if lent is None else lent.shared_memory,
        age_ms=None if found is None else found.age_ms,
    )


def _scope(params: p.ScopedParams) -> Scope:
    return Scope(params.user_id, params.project_id)


def _claims(params: p.ScopedParams, *, exclusive: bool) -> tuple[Claim, ...]:
    scope = _scope_claims(_scope(params))
    return (*scope, Claim(f"{scope[-1].key}{_part(params.store)}", exclusive=exclusive))


def _scope_claims(scope: Scope) -> tuple[Claim, ...]:
    user = f"stores {_part(scope.user_id)}"
    return Claim(user, exclusive=False), Claim(f"{user}{_part(scope.project_id)}", exclusive=False)


def _part(name: str) -> str:
    """Return a name as part of a key: with its length, no two sequences of names make one key."""
    return f"{len(name)}:{name}"


def _json(content: Content) -> orjson.Fragment | None:
    """Return JSON as it was put; None for bytes."""
    return orjson.Fragment(content.data) if content.form is Form.JSON else None

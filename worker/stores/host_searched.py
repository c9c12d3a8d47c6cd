"""``host.stores.vectors`` and ``host.stores.preferences``: what is searched, as code in this process uses it."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from worker.core.records import no_report
from worker.plugins import CancelToken, LimitExceededError, LoadedFolder, Near, Preference
from worker.stores.base import FolderRequest, Hit, Item, Question, Scope, Vector
from worker.stores.named import RESULTS_MAX, Named, Pair, content_of, ms, value_of, within
from worker.stores.preferences import preference


class _Searched:
    """What both have."""

    def __init__(self, named: Named) -> None:
        self._named = named

    def delete(
        self, scope: Pair, key: str | None = None, *, tag: str | None = None, prefix: str | None = None
    ) -> int:
        """Delete what one of these chooses."""
        return self._named.delete(scope, key, tag, prefix)

    def _put(self, scope: Pair, item: Item) -> None:
        put = self._named.put(scope, item)
        if put.reason is not None:
            raise LimitExceededError(f"{item.key!r} is not stored: {put.reason}", entry_bytes=put.entry_bytes)

    def _hits(self, scope: Pair, question: Question) -> tuple[Hit, ...]:
        within("limit", question.limit, 1, RESULTS_MAX)
        store = self._named.existing(scope)
        return () if store is None else store.search(question)


class Vectors(_Searched):
    """Vectors, each with a value."""

    def put(
        self, scope: Pair, key: str, vector: Vector, value: Any = None, *, tags: Iterable[str] = (),
        ttl_s: float | None = None,
    ) -> None:  # fmt: skip
        """Put a vector."""
        self._put(scope, Item(key, content_of(value), vector=vector, tags=tuple(tags), ttl_ms=ms(ttl_s)))

    def get(self, scope: Pair, key: str) -> Any:
        """Return a copy of a value, or None."""
        found = self._named.found(scope, key)
        return None if found is None else value_of(found.content)

    def search(self, scope: Pair, vector: Vector, *, limit: int = 10, tags: Iterable[str] = ()) -> list[Near]:
        """Return the nearest."""
        hits = self._hits(scope, Question(vector, None, limit, tuple(tags)))
        return [Near(each.key, each.score, value_of(each.content)) for each in hits]


class Documents(_Searched):
    """Texts in pieces."""

    def put(
        self,
        scope: Pair,
        key: str,
        text: str,
        *,
        vector: Vector | None = None,
        tags: Iterable[str] = (),
        **said: Any,
    ) -> None:
        """Put a text, with what else is said of it."""
        item = Item(key, content_of({**said, "text": text}), vector=vector, tags=tuple(tags))
        self._put(scope, item)

    def load_folder(
        self, scope: Pair, folder: str, *, extensions: Iterable[str] = (), excludes: Iterable[str] = (),
        chunk_bytes: int = 2_000, token: CancelToken | None = None,
        report: Callable[[int, int], None] = no_report,
    ) -> LoadedFolder:  # fmt: skip
        """Load a folder below ``--documents-root``: what is new or changed."""
        self._named.opened(scope)
        request = FolderRequest(folder, tuple(extensions), tuple(excludes), chunk_bytes)
        stores, of = self._named.stores, Scope(*scope)
        return stores.load_folder(
            self._named.name, of, request, token or CancelToken(time.monotonic_ns), report
        )

    def search(
        self, scope: Pair, text: str | None = None, *, vector: Vector | None = None, limit: int = 10,
        tags: Iterable[str] = (),
    ) -> list[Near]:  # fmt: skip
        """Return the nearest to a text, or to a vector."""
        hits = self._hits(scope, Question(vector, text, limit, tuple(tags)))
        return [Near(each.key, each.score, value_of(each.content)) for each in hits]


class Preferences(_Searched):
    """What is known of a user or project."""

    def put(
        self, scope: Pair, key: str, value: Any, *, description: str | None = None,
        timestamp: str | int | None = None, tags: Iterable[str] = (),
    ) -> None:  # fmt: skip
        """Put one."""
        said = {"value": value, "description": description, "timestamp": timestamp}
        given = {name: each for name, each in said.items() if name == "value" or each is not None}
        self._put(scope, Item(key, content_of(given), tags=tuple(tags)))

    def get(self, scope: Pair, key: str) -> Preference | None:
        """Return one, or None."""
        found = self._named.found(scope, key)
        return None if found is None else preference(found.content)

    def all(self, scope: Pair) -> dict[str, Preference]:
        """Return all, by key."""
        found = ((key, self.get(scope, key)) for key in self._keys(scope))
        return {key: each for key, each in found if each is not None}

    def search(self, scope: Pair, text: str, *, limit: int = 10, tags: Iterable[str] = ()) -> list[Near]:
        """Return those that have words of a text."""
        hits = self._hits(scope, Question(None, text, limit, tuple(tags)))
        return [Near(each.key, each.score, preference(each.content)) for each in hits]

    def prompt(self, scope: Pair, about: str | None = None) -> str:
        """Return all, or those about something, as lines for a prompt."""
        store = self._named.existing(scope)
        if store is None:
            return ""
        keys = (
            self._keys(scope)
            if about is None
            else [each.key for each in self.search(scope, about, limit=RESULTS_MAX)]
        )
        return store.prompt(keys) or ""

    def _keys(self, scope: Pair) -> list[str]:
        store, keys, after = self._named.existing(scope), list[str](), None
        while store is not None:
            page = store.page(after, RESULTS_MAX)
            keys += [each.key for each in page.entries]
            if page.next is None:
                break
            after = page.next
        return keys

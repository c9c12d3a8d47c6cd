"""Where the stores are put together: when something first asks for one."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from protocol.vocabulary import HealthState
from worker.app.memory import Parts
from worker.app.options import Arguments, fail
from worker.core.cancellation import CancelToken
from worker.core.clock import FixedClock
from worker.core.errors import InternalError, UnsupportedError
from worker.core.health import PartHealth
from worker.core.models import PrefixCache
from worker.core.paths import make_folder
from worker.core.records import no_report
from worker.core.sure_lock import SureLock
from worker.stream.work import Call, PluginAction

if TYPE_CHECKING:
    from worker.stores.base import Embed
    from worker.stores.host import HostStores
    from worker.stores.registry import Stores

_TEND_S = 1.0


class LazyStores:
    """Makes them once; a worker that uses none imports nothing of them. Exits with 2 for folders that can't be used."""

    def __init__(self, arguments: Arguments, parts: Parts) -> None:
        self._folder = _path(arguments.store_folder)
        self._documents_root = _path(arguments.documents_root)
        if self._documents_root is not None and not os.path.isdir(self._documents_root):  # noqa: PTH112 - Path.is_dir raises for a name too long
            fail(f"--documents-root {self._documents_root}: there is no such folder")
        # Its lock is had with the first store that persists: the nodes of a fleet on one machine are all given the one folder.
        problem = None if self._folder is None else make_folder(self._folder)
        if problem is not None:
            fail(f"--store-folder {self._folder}: {problem}")
        self._embedder = arguments.documents_embedder
        self._parts = parts
        self._lock = SureLock()
        # All mutable state: what embeds, known once plugins are, and the stores, None until something asks.
        self._embed: Embed | None = None
        self._made: Stores | None = None

    def embedding_by(self, plugins: dict[str, PluginAction]) -> dict[str, PluginAction]:
        """Have documents embedded by the action that the operator named, and return the plugins. Exits with 2 for none."""
        if self._embedder is not None:
            if self._embedder not in plugins:
                known = ", ".join(plugins) or "none"
                fail(f"--documents-embedder {self._embedder}: no plugin adds that action; there is {known}")
            self._embed = partial(_embed, self._embedder, plugins[self._embedder])
        return plugins

    def get(self) -> "Stores":
        """Return the stores."""
        with self._lock:
            if self._made is None:
                from worker.stores.base import Tools  # noqa: PLC0415 - only where stores are used
                from worker.stores.registry import Stores  # noqa: PLC0415 - as above

                core = self._parts.core
                tools = Tools(
                    consumers=self._parts.memory.consumers,
                    now_ns=core.clock.now_ns,
                    utc_ms=lambda: int(core.clock.utc().timestamp() * 1000),
                    folder=self._folder,
                    documents_root=self._documents_root,
                    embed=None if self._embedder is None else self._embedded,
                    tend_s=None if isinstance(core.clock, FixedClock) else _TEND_S,
                )
                self._made = Stores(tools)
            return self._made

    def _embedded(self, texts: Sequence[str], token: CancelToken) -> Sequence[Any]:
        if self._embed is None:  # a plugin uses documents while it is registered
            raise UnsupportedError(
                f"{self._embedder} makes vectors of documents once all plugins are registered"
            )
        return self._embed(texts, token)

    def health(self) -> Iterator[PartHealth]:
        """Tell whether there are stores, and whether their disks take what is changed in them."""
        if self._made is None:
            yield PartHealth("stores", HealthState.OFF, "none was asked for")
        elif problems := self._made.problems():
            said = f"the last change of {len(problems)} of them was refused: {problems[0]}"
            yield PartHealth("stores", HealthState.DEGRADED, said)
        else:
            yield PartHealth("stores", HealthState.OK)

    def host(self) -> "HostStores":
        """Return the stores as a plugin uses them."""
        from worker.stores.host import HostStores  # noqa: PLC0415 - only where stores are used

        return HostStores(self.get())

    def prefixes(self, cache: PrefixCache, question: Any) -> Any:
        """Answer what an engine asks of its store of prompts' beginnings."""
        from worker.stores.engine_prefixes import answered  # noqa: PLC0415 - only where stores are used

        return answered(self.get(), cache, question)

    def close(self, then: Callable[[], None]) -> None:
        """Give everything back, where there is anything, and go on with what is below."""
        try:
            if self._made is not None:
                self._made.close()
        finally:
            then()


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _embed(name: str, action: PluginAction, texts: Sequence[str], token: CancelToken) -> Sequence[Any]:
    """Have a plugin's action make a vector of each text. InternalError where it answers anything else."""
    # A plugin's answer is written by now.
    answer = orjson.loads(orjson.dumps(action({"texts": list(texts)}, Call(token, no_report))))
    vectors = answer.get("vectors") if isinstance(answer, dict) else None
    if not isinstance(vectors, list) or len(vectors) != len(texts):
        raise InternalError(
            f"{name}, which makes vectors of documents, answered none for {len(texts)} texts", plugin=name
        )
    return vectors

"""A real llama.cpp session of a tiny model in this process, whose prefixes go straight to stores."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worker.backends.engines import asking
from worker.backends.engines.llama import LlamaEngine, LlamaSession
from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.models import ModelSpec, PrefixCache
from worker.loaders.gguf_loader import GgufLoader
from worker.stores.engine_prefixes import answered
from worker.stores.registry import Stores

TEXT = "All good things come to those who wait for it, and the others have them sooner. " * 6
"""Some 500 tokens, of which 448 are whole blocks."""


class Direct:
    """As ``asking.Asker``, without a process between: bytes are those that the stores hand out."""

    def __init__(self, stores: Stores, cache: PrefixCache) -> None:
        self.stores = stores
        self.cache = cache
        self.asked: list[dict[str, Any]] = []

    @contextmanager
    def ask(self, question: dict[str, Any]) -> Iterator[Any]:
        self.asked.append(question)
        yield answered(self.stores, self.cache, question)


class Writer:
    """A model that is open, and who writes with it."""

    def __init__(self, session: LlamaSession, direct: Direct) -> None:
        self.session = session
        self.direct = direct

    def write(self, prompt: Any = TEXT, **more: Any) -> tuple[str, int]:
        """Return what greedy decoding continues a prompt with, and how many of its tokens were in a cache."""
        asked = {"prompt": prompt, "n_predict": 8, "temperature": 0} | more
        asking._working.asker = self.direct
        try:
            result = self.session.session.handle_completions(asked)
        finally:
            asking._working.asker = None
        assert "error" not in result, result
        return result["choices"][0]["text"], result["usage"]["prompt_tokens_details"]["cached_tokens"]


@contextmanager
def opened(path: Path, stores: Stores, **params: Any) -> Iterator[Writer]:
    """Open a model until the end of the block."""
    said = {"n_ctx": 1024, "threads": 1, "prefix_cache": "4MiB"} | params
    launch = GgufLoader().launch(ModelSpec("writer", "gguf", path, path.parent, params=tuple(said.items())))
    session = LlamaEngine().open(str(launch.path), dict(launch.params), CancelToken(SystemClock().now_ns))
    assert isinstance(session, LlamaSession)
    caching = getattr(session.session, "_caching", None)
    if caching is not None:  # what having and putting take on a busy machine decides nothing here
        caching._note = lambda *_: None
    cache = launch.prefixes or PrefixCache("prefix:writer", 2**22, persist=False)
    try:
        yield Writer(session, Direct(stores, cache))
    finally:
        session.close()

"""``host.stores.kv``: what models made of the beginnings of prompts, as code in this process uses it."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from worker.plugins import Beginning, UnsupportedError
from worker.stores.base import Content, Form, Item
from worker.stores.kv import KvStore
from worker.stores.named import Named, Pair


class Kv:
    """Tensors of the beginnings of prompts."""

    def __init__(self, named: Named) -> None:
        self._named = named

    def put(
        self, scope: Pair, model: str, tokens: Sequence[int], tensors: Mapping[str, Any], *, cost_ms: float = 0.0,
        tags: Iterable[str] = (),
    ) -> bool:  # fmt: skip
        """Put tensors."""
        content = Content(_packed(tensors), Form.BYTES)
        item = Item(model, content, cost_ms=cost_ms, tags=tuple(tags), tokens=tokens)
        return self._named.put(scope, item).reason is None

    def put_next(
        self, scope: Pair, model: str, tokens: Sequence[int], data: bytes, *, cost_ms: float
    ) -> bool:
        """Put what was made of the last tokens, as safetensors, which goes on from what is there. False where there is no place."""
        item = Item(model, Content(data, Form.BYTES), cost_ms=cost_ms, tokens=tokens, goes_on=True)
        return self._named.put(scope, item).reason is None

    def longest(
        self, scope: Pair, model: str, tokens: Sequence[int], *, framework: str = "numpy"
    ) -> Beginning | None:
        """Return the longest beginning."""
        store = self._existing(scope)
        found = [] if store is None else store.wholes(model, tokens)
        for length, key in reversed(found):
            entry = store.get(key) if store is not None else None
            if entry is not None:  # else it went meanwhile
                return Beginning(length, _unpacked(bytes(entry.content.data), framework))
        if store is not None:
            store.missed()
        return None

    def chain(
        self, scope: Pair, model: str, tokens: Sequence[int], step: int, beyond: int
    ) -> tuple[int, list[bytes]]:
        """Return how many entries there are of ``step`` tokens, of twice as many, and so on, without a gap, and copies of them.

        They are files of safetensors, and not read where they are of no more tokens than ``beyond``.
        """
        store = self._existing(scope)
        if store is None:
            return 0, []
        keys = list[str]()
        for length, key in store.chain(model, tokens):
            if length == (len(keys) + 1) * step:
                keys.append(key)
        if len(keys) * step <= beyond:
            if not keys:
                store.missed()
            return len(keys), []
        found = list[bytes]()
        for key in keys:
            entry = store.get(key)
            if entry is None:  # it went meanwhile, and without it the rest is of no use
                break
            found.append(bytes(entry.content.data))
        return len(found), found

    def forget(self, scope: Pair, model: str, tokens: Sequence[int]) -> None:
        """Delete the chain that a prompt begins with."""
        store = self._existing(scope)
        for _, key in [] if store is None else store.chain(model, tokens):
            self.delete(scope, key)

    def delete(
        self, scope: Pair, key: str | None = None, *, tag: str | None = None, prefix: str | None = None
    ) -> int:
        """Delete what one of these chooses."""
        return self._named.delete(scope, key, tag, prefix)

    def _existing(self, scope: Pair) -> KvStore | None:
        store = self._named.existing(scope)
        if store is None or isinstance(store, KvStore):
            return store
        raise UnsupportedError(f"{self._named.name!r} is open in that scope as a store of another kind")


def _packed(tensors: Mapping[str, Any]) -> bytes:
    """Return tensors of torch, or arrays of numpy, as safetensors has them. TypeError for others."""
    torch = sys.modules.get("torch")
    if torch is not None and all(isinstance(each, torch.Tensor) for each in tensors.values()):
        apart = torch.contiguous_format  # the library takes none that share memory
        whole = {name: each.detach().clone(memory_format=apart) for name, each in tensors.items()}
        return bytes(_library("torch").save(whole))
    numpy = sys.modules.get("numpy")
    if numpy is None or not all(isinstance(each, numpy.ndarray) for each in tensors.values()):
        raise TypeError("tensors of torch alone are wanted, or arrays of numpy alone, by name")
    arrays = {name: numpy.ascontiguousarray(each) for name, each in tensors.items()}
    return bytes(_library("numpy").save(arrays))


def _unpacked(data: bytes, framework: str) -> dict[str, Any]:
    if framework not in {"numpy", "torch"}:
        raise ValueError(f"framework is numpy or torch, not {framework!r}")
    found: dict[str, Any] = _library(framework).load(data)
    return found


def _library(framework: str) -> Any:
    try:
        return import_module(f"safetensors.{framework}")
    except ModuleNotFoundError as error:
        message = f"tensors of {framework} need {error.name}: pip install memory-worker[stores]"
        raise UnsupportedError(message) from error

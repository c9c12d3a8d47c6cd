"""What engines keep of the beginnings of prompts: a store of kind kv for each model, which its process asks and fills."""

from typing import Any

from protocol.vocabulary import StoreKind
from worker.core.models import PrefixCache
from worker.stores.base import Options
from worker.stores.host_kv import Kv
from worker.stores.named import Named
from worker.stores.registry import Stores


def answered(stores: Stores, cache: PrefixCache, question: dict[str, Any]) -> Any:
    """Answer a question of ``worker.backends.engines.llama_prefix``: the blocks of a prompt's beginning, or how many were put."""
    options = Options(max_bytes=cache.max_bytes, persist=cache.persist or None)
    kv = Kv(Named(stores, cache.store, StoreKind.KV, options))
    user, project = question["scope"]
    scope, model, tokens, step = (user, project), question["model"], question["tokens"], question["step"]
    if question["do"] == "longest":
        count, blocks = kv.chain(scope, model, tokens, step, question["beyond"])
        return {"count": count, "blocks": blocks}
    if question["do"] == "forget":
        return kv.forget(scope, model, tokens)
    blocks, cost_ms = question["blocks"], question["cost_ms"]
    first = len(tokens) // step - len(blocks)
    for number, block in enumerate(blocks):
        upto = (first + number + 1) * step
        if not kv.put_next(scope, model, tokens[:upto], bytes(block), cost_ms=cost_ms):
            return number  # what would go on from it is of no use
    return len(blocks)

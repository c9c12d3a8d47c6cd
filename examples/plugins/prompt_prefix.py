"""A plugin with a torch model of its own that works the beginning of a prompt out once, whoever asks for it again.

The model is two layers of attention over bytes with random weights, and stands for yours: what it remembers of a prompt is
its keys and values, tensors by name, and those are kept in a store of the worker, which is bounded, priced and given back
when memory is short (``pip install memory-worker[torch,stores]``)::

    python -m memory_worker --plugin examples.plugins.prompt_prefix

    {"request_id": "1", "action": "prompt.next", "data": {"text": "Once upon a time"}}
    {"request_id": "2", "action": "prompt.next", "data": {"text": "Once upon a time, there was"}}
"""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from worker.plugins import Call, InvalidRequestError, Kv, PluginHost

WIDTH, LAYERS, LONGEST = 64, 2, 65_536
IDENTITY = f"two layers of {WIDTH}, seed 1, f32"
"""All that keys and values depend on: of another model nothing is found."""


class Attention:
    """Weights."""

    def __init__(self) -> None:
        chance = torch.Generator().manual_seed(1)

        def made(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=chance) / WIDTH**0.5

        self.bytes = made(256, WIDTH)
        self.layers = [(made(WIDTH, WIDTH), made(WIDTH, WIDTH), made(WIDTH, WIDTH)) for _ in range(LAYERS)]

    def go_on(
        self, tokens: list[int], past: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return what comes after tokens, of which ``past`` has the first, and the keys and values of all."""
        known = len(past["k.0"]) if past else 0
        state, now = self.bytes[tokens[known:]], dict[str, torch.Tensor]()
        later = torch.ones(len(tokens) - known, len(tokens)).triu(known + 1).bool()
        for number, (query, key, value) in enumerate(self.layers):
            keys, values = state @ key, state @ value
            if past:
                keys = torch.cat((past[f"k.{number}"], keys))
                values = torch.cat((past[f"v.{number}"], values))
            now |= {f"k.{number}": keys, f"v.{number}": values}
            looks = (state @ query @ keys.T).masked_fill(later, float("-inf"))
            state = state + looks.softmax(-1) @ values
        return self.bytes @ state[-1], now


def register(host: PluginHost) -> None:
    """Add ``prompt.next``."""
    host.add_action("prompt.next", partial(next_byte, Attention(), host.stores.kv("prompts", bytes="64MiB")))


def next_byte(model: Attention, prompts: Kv, data: dict[str, Any], _call: Call) -> dict[str, Any]:
    """Answer the byte that follows a text, and how many of its tokens were known."""
    text = data.get("text")
    if not isinstance(text, str) or not 0 < len(text) <= LONGEST:
        raise InvalidRequestError.at("data.text", f"a text of 1 to {LONGEST} characters is wanted")
    scope = (str(data.get("user_id", "default_user")), str(data.get("project_id", "default")))
    tokens = list(text.encode())
    found = prompts.longest(scope, IDENTITY, tokens[:-1], framework="torch")
    known, past = (0, {}) if found is None else found
    began = time.perf_counter()
    scores, past = model.go_on(tokens, past)
    took_ms = (time.perf_counter() - began) * 1000
    # What it takes without: each token as long as those that were new.
    prompts.put(scope, IDENTITY, tokens, past, cost_ms=took_ms * len(tokens) / (len(tokens) - known))
    return {"next": int(scores.argmax()), "known_tokens": known, "worked_out_tokens": len(tokens) - known}

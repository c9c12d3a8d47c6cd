"""What is done to a model that keeps prefixes, in the engine's process: it finds this package, and no other of the checkout."""

import os
from typing import Any

from worker.plugins import Call, LeasedModel


def measured(weights: LeasedModel, _data: dict[str, Any], _call: Call) -> dict[str, float]:
    """Return what a token takes to be worked out, put into the store and had back, in milliseconds, as the engine knows it."""
    return dict(weights.session._caching._ms)


def die_restoring(weights: LeasedModel, _data: dict[str, Any], _call: Call) -> int:
    """Have the process end the next time that llama.cpp is to read a state."""
    ask = weights.session._caching._ask

    def or_die(method: str, path: str, body: Any) -> Any:
        if path.endswith("action=restore"):
            os.abort()
        return ask(method, path, body)

    weights.session._caching._ask = or_die
    return os.getpid()

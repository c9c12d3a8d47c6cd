"""Actions for prefixes of prompts: text from a model of any name, and an engine that dies as it is given a prefix back."""

import os
from typing import Any

from examples.plugins.text_generation import generate
from worker.plugins import Call, LeasedModel, PluginHost


def register(host: PluginHost) -> None:
    """Add ``test.write``, ``test.write_plainly``, ``test.measured`` and ``test.die_restoring``."""
    host.add_model_action("test.write", generate, "writer")
    host.add_model_action("test.write_plainly", generate, "plain")
    host.add_model_action("test.measured", measured, "writer")
    host.add_model_action("test.die_restoring", die_restoring, "writer")


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

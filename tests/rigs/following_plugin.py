"""A plugin whose work goes to where its model is: says where that was, and what it saw there."""

import hashlib
import os
from typing import TYPE_CHECKING, Any

from worker.errors import InvalidRequestError

if TYPE_CHECKING:
    from worker.models_api import LeasedModel
    from worker.plugins import PluginHost
    from worker.stream.work import Call


def follow(weights: "LeasedModel", data: dict[str, Any], call: "Call") -> dict[str, Any]:
    """Digest every tensor; ``wait`` until cancelled, if asked."""
    if data.get("wait") not in {None, True}:
        raise InvalidRequestError.at("data.wait", "is true, or left out")
    call.report(1, 2)
    if data.get("wait"):
        call.token.wait(None)
        call.token.check()
    found = {name: hashlib.blake2b(weights[name]).hexdigest() for name in weights}
    return {"pid": os.getpid(), "model_id": weights.model_id, "tensors": found}


def register(host: "PluginHost") -> None:
    """Add ``test.follow``."""
    host.add_model_action("test.follow", follow, lambda data: str(data["model_id"]))

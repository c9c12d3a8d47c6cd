"""A plugin whose work goes to where its model is: says where that was, and what it saw there."""

import hashlib
import os
from typing import Any

from worker.plugins import Call, InvalidRequestError, LeasedModel, PluginHost


def _digest(content: Any) -> str:
    return hashlib.blake2b(content).hexdigest()


def follow(weights: LeasedModel, data: dict[str, Any], call: Call) -> dict[str, Any]:
    """Digest every tensor, as torch has it if asked; ``wait`` until cancelled, if asked; or have a ``bug``."""
    if data.get("wait") not in {None, True}:
        raise InvalidRequestError.at("data.wait", "is true, or left out")
    call.report(1, 2)
    if data.get("wait"):
        call.token.wait(None)
        call.token.check()
    if data.get("bug"):
        return {"never": data["no such key"]}
    if data.get("torch"):
        found = {name: _digest(tensor.cpu().numpy()) for name, tensor in weights.tensors().items()}
    else:
        found = {name: _digest(weights[name]) for name in weights}
    return {"pid": os.getpid(), "model_id": weights.model_id, "tensors": found}


def register(host: PluginHost) -> None:
    """Add ``test.follow``."""
    host.add_model_action("test.follow", follow, lambda data: str(data["model_id"]))

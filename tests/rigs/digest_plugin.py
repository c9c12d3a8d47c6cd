"""A plugin that says what a leased model's tensors hold: their bytes, or torch's own tensors over them."""

import hashlib
from typing import Any

from worker.plugins import Call, PluginHost


def register(host: PluginHost) -> None:
    """Add ``test.digest``."""

    def digest(data: dict[str, Any], call: Call) -> dict[str, Any]:
        with host.models.use(data["model_id"], device_id=data.get("device_id"), token=call.token) as weights:
            if not data.get("torch"):
                found = {name: hashlib.blake2b(weights[name]).hexdigest() for name in weights}
            else:
                import torch

                found = {}
                for name, tensor in weights.tensors().items():
                    bits = tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b""
                    found[name] = hashlib.blake2b(bits).hexdigest()
                    del tensor, bits
            return {"model_id": weights.model_id, "tensors": found}

    host.add_action("test.digest", digest)

"""A plugin that tells speech with silero-vad as an ONNX graph, whose state its caller carries from piece to piece."""

import base64
from typing import Any

from worker.plugins import Call, LeasedModel, PluginHost

RATE, PIECE, BEFORE = 16_000, 512, 64
"""Samples a second, how many the graph takes at a time, and how many of those before them it sees again."""


def listen(weights: LeasedModel, data: dict[str, Any], call: Call) -> dict[str, Any]:
    """Return for each piece how likely somebody speaks."""
    import numpy as np

    sound = np.frombuffer(base64.b64decode(data["pcm16"]), dtype=np.int16).astype(np.float32) / 2**15
    seen, state, found = np.zeros((1, BEFORE), np.float32), np.zeros((2, 1, 128), np.float32), []
    for start in range(0, len(sound), PIECE):
        call.token.check()
        seen = np.concatenate([seen[:, -BEFORE:], sound[None, start : start + PIECE]], axis=1)
        likely, state = weights.session.run(None, {"input": seen, "state": state, "sr": np.array(RATE)})
        found.append(float(likely[0][0]))
    return {"speech": found}


def register(host: PluginHost) -> None:
    """Add ``test.listen``."""
    host.add_model_action("test.listen", listen, "graph")

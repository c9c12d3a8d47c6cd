"""A plugin that hears speech with silero-vad, which onnxruntime runs in an engine process of its own.

The model is a file of the package silero-vad, which needs nothing of that package to run::

    pip download --no-deps silero-vad && unzip -j silero_vad-*.whl '*/silero_vad.onnx' -d models
    echo 'models: {speech: {path: silero_vad.onnx, params: {intra_op_num_threads: 1}}}' > models/models.yaml
    python -m memory_worker --models models/models.yaml --plugin examples.plugins.speech_detector

    {"request_id": "1", "action": "speech.detect", "data": {"pcm16_base64": "...", "sample_rate": 16000}}
"""

import base64
import binascii
from typing import Any

from worker.plugins import Call, InvalidRequestError, LeasedModel, PluginHost

RATE = 16000
FRAME, CONTEXT = 512, 64
"""Samples that the model hears at once, and those before them that it wants to hear again."""


def register(host: PluginHost) -> None:
    """Add ``speech.detect``."""
    host.add_model_action("speech.detect", detect, model="speech")


def detect(weights: LeasedModel, data: dict[str, Any], call: Call) -> dict[str, Any]:
    """Return how probable speech is in each 32 ms of a recording: runs where the session is."""
    import numpy as np  # noqa: PLC0415 - the worker itself needs none

    if data.get("sample_rate") != RATE:
        raise InvalidRequestError.at("data.sample_rate", f"{RATE} is wanted")
    try:
        content = base64.b64decode(str(data.get("pcm16_base64")), validate=True)
        samples = np.frombuffer(content, "<i2").astype(np.float32) / 32768
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError.at("data.pcm16_base64", f"16-bit samples are wanted: {error}") from error
    session: Any = weights.session
    state, rate = np.zeros((2, 1, 128), np.float32), np.array(RATE, np.int64)
    heard, before = [], np.zeros(CONTEXT, np.float32)
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    for index, frame in enumerate(frames):
        call.token.check()
        inputs = {"input": np.concatenate([before, frame])[None], "state": state, "sr": rate}
        probability, state = session.run(None, inputs)
        heard.append(round(float(probability[0, 0]), 4))
        before = frame[-CONTEXT:]
        call.report(index + 1, len(frames))
    return {"probabilities": heard, "frame_ms": 1000 * FRAME // RATE}

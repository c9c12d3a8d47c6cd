"""A plugin that tells speech from other sound with silero-vad, a TorchScript program in an engine process of its own.

Take the model out of its package (11 MB; needs pip), then start the worker with it (``pip install memory-worker[torch]``)::

    python -m examples.plugins.voice_activity models
    python -m memory_worker --models models/models.yaml --plugin examples.plugins.voice_activity

    {"request_id": "1", "action": "voice.activity", "data": {"pcm16": "<base64 of 16-bit samples, 16 kHz, mono>"}}
"""

import base64
import binascii
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from examples.plugins.sentence_embedding import fetched
from worker.plugins import Call, InvalidRequestError, LeasedModel, PluginHost

MODEL_ID = "voice"
PACKAGE = "silero-vad==6.2.3"
RATE, PIECE = 16_000, 512
"""Samples a second, and how many the program takes at a time: 32 ms."""


def register(host: PluginHost) -> None:
    """Add ``voice.activity``."""
    host.add_model_action("voice.activity", activity, MODEL_ID)


def activity(weights: LeasedModel, data: dict[str, Any], call: Call) -> dict[str, Any]:
    """Return for each 32 ms how likely somebody speaks; what is left over at the end is filled up with silence."""
    import torch  # noqa: PLC0415 - it is in the engine's process, and not in the worker's

    try:
        sound = bytearray(base64.b64decode(data.get("pcm16", ""), validate=True))
    except (TypeError, ValueError, binascii.Error):
        raise InvalidRequestError.at("data.pcm16", "base64 is wanted") from None
    sound.extend(bytes(-len(sound) % (2 * PIECE)))
    pieces = (torch.frombuffer(sound, dtype=torch.int16).float() / 2**15).split(PIECE) if sound else ()
    program = weights.session
    program.reset_states()
    found = []
    with torch.no_grad():
        for piece in pieces:
            call.token.check()
            found.append(round(program(piece, RATE).item(), 6))
            call.report(len(found), len(pieces))
    return {"piece_ms": PIECE * 1000 // RATE, "speech": found}


def make_model(folder: Path, wheel: Path) -> None:
    """Take the program out of its package, and write the file that declares it."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as package:
        (folder / "voice.jit").write_bytes(package.read("silero_vad/data/silero_vad.jit"))
    declared = f"models:\n  {MODEL_ID}: {{path: voice.jit, params: {{threads: 1}}}}\n"
    (folder / "models.yaml").write_text(declared, encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        make_model(Path(sys.argv[1]), fetched(PACKAGE, Path(temporary)))

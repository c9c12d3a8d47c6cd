"""A plugin that embeds texts: each three letters are a row of the model, and a text is their mean.

Make the model, then start the worker with it::

    python -m examples.plugins.text_embedding models
    python -m memory_worker --models models/models.yaml --plugin examples.plugins.text_embedding

    {"request_id": "1", "action": "text.embed", "data": {"texts": ["a cat", "two cats", "a tax return"]}}
"""

import json
import math
import random
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

from worker.plugins import Call, InvalidRequestError, LeasedModel, PluginHost

MODEL_ID = "trigrams"
ROWS, WIDTH = 4096, 64


def register(host: PluginHost) -> None:
    """Add ``text.embed``."""

    def embed(data: dict[str, Any], call: Call) -> dict[str, Any]:
        texts = data.get("texts")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise InvalidRequestError.at("data.texts", "a list of texts is wanted")
        # Loaded by the first request, safe from eviction until the last vector is done.
        # Its time and memory are in memory.get_analytics, as operation:embed.
        with host.operation("embed"), host.models.use(MODEL_ID, token=call.token) as weights:
            vectors = []
            for text in texts:
                call.token.check()
                vectors.append(embedding(text, weights))
        return {"vectors": vectors}

    host.add_action("text.embed", embed)


def embedding(text: str, weights: LeasedModel) -> list[float]:
    """Return the unit vector of a text."""
    rows = weights["embedding"].cast("f")
    padded = f"  {text.lower()} "
    total = [0.0] * WIDTH
    for at in range(len(padded) - 2):
        row = zlib.crc32(padded[at : at + 3].encode()) % ROWS * WIDTH
        total = [have + add for have, add in zip(total, rows[row : row + WIDTH], strict=True)]
    length = math.sqrt(sum(value * value for value in total)) or 1.0
    return [round(value / length, 6) for value in total]


def make_model(folder: Path) -> None:
    """Write the model and the file that declares it: random projections keep similar texts close."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(1)  # noqa: S311 - weights, no secrets
    data = struct.pack(f"<{ROWS * WIDTH}f", *(chance.gauss(0, 1) for _ in range(ROWS * WIDTH)))
    entry = {"dtype": "F32", "shape": [ROWS, WIDTH], "data_offsets": [0, len(data)]}
    header = json.dumps({"embedding": entry}).encode()
    (folder / "trigrams.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)
    declared = (
        f"models:\n  - {{id: {MODEL_ID}, path: trigrams.safetensors, loader: safetensors, device: cpu}}\n"
    )
    (folder / "models.yaml").write_text(declared, encoding="utf-8")


if __name__ == "__main__":
    make_model(Path(sys.argv[1]))

"""A plugin that tells what kind of file some bytes are with magika, an ONNX model in an engine process of its own.

Take the model out of its package (16 MB; needs pip), then start the worker with it (``pip install memory-worker[onnx]``)::

    python -m examples.plugins.file_type models
    FILE_TYPE_LABELS=models/labels.json python -m memory_worker --models models/models.yaml \
        --plugin examples.plugins.file_type

    {"request_id": "1", "action": "file.type", "data": {"content": "<base64>"}}
"""

import base64
import binascii
import json
import os
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from examples.plugins.sentence_embedding import fetched
from worker.plugins import Call, InvalidRequestError, LeasedModel, PluginHost

MODEL_ID = "file-type"
PACKAGE = "magika==1.0.3"
BLOCK, END, PADDING, LEAST = 4096, 1024, 256, 8
"""As the model was trained: it sees 1,024 bytes of the first and of the last 4,096, without the white space around."""


def register(host: PluginHost) -> None:
    """Add ``file.type``."""
    host.add_model_action("file.type", file_type, MODEL_ID)


def file_type(weights: LeasedModel, data: dict[str, Any], call: Call) -> dict[str, Any]:
    """Return the likeliest kind, and how likely it is; of a few bytes no kind."""
    import numpy as np  # noqa: PLC0415 - it is in the engine's process, and not in the worker's

    try:
        content = base64.b64decode(data.get("content", ""), validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise InvalidRequestError.at("data.content", "base64 is wanted") from None
    first, last = content[:BLOCK].lstrip()[:END], content[-BLOCK:].rstrip()[-END:]
    if len(first) < LEAST:
        return {"kind": None, "score": None}
    seen = [*first, *([PADDING] * (2 * END - len(first) - len(last))), *last]
    call.token.check()
    [scores] = weights.session.run(None, {"bytes": np.array([seen], dtype=np.int32)})
    best = int(scores[0].argmax())
    return {"kind": _labels()[best], "score": round(float(scores[0][best]), 6)}


@cache
def _labels() -> list[str]:
    labels: list[str] = json.loads(Path(os.environ["FILE_TYPE_LABELS"]).read_text(encoding="utf-8"))
    return labels


def make_model(folder: Path, wheel: Path) -> None:
    """Take the model and the names of kinds out of its package, and write the file that declares it."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as package:
        (folder / "magika.onnx").write_bytes(package.read("magika/models/standard_v3_3/model.onnx"))
        config = json.loads(package.read("magika/models/standard_v3_3/config.min.json"))
    (folder / "labels.json").write_text(json.dumps(config["target_labels_space"]), encoding="utf-8")
    declared = f"models:\n  {MODEL_ID}: {{path: magika.onnx, params: {{intra_op_num_threads: 1}}}}\n"
    (folder / "models.yaml").write_text(declared, encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        make_model(Path(sys.argv[1]), fetched(PACKAGE, Path(temporary)))

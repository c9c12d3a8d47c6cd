"""Plugins that run a library's own models in engine processes, asked and watched by a C# host."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from examples.plugins import file_type, voice_activity
from tests.e2e.csharp.host import Make, call, make, real, wait
from tests.rigs.gguf_models import write_llama
from tests.rigs.packages import wheel

__all__ = ["real"]


def loaded(worker: Any, model_id: str) -> Any:
    """Have the host load a model. Returns what ServiceMemory says of it."""
    from MemoryWorker.Client import ServiceMemory
    from MemoryWorker.Client.Protocol import LoadModelParams

    memory = ServiceMemory(worker)
    wait(memory.LoadModelAsync(make(LoadModelParams, ModelId=model_id)))
    [row] = wait(memory.GetModelMemoryStatusAsync()).Models
    return row


def unloaded(worker: Any, model_id: str) -> Any:
    from MemoryWorker.Client import ServiceMemory
    from MemoryWorker.Client.Protocol import UnloadModelParams

    return wait(ServiceMemory(worker).UnloadModelAsync(make(UnloadModelParams, ModelId=model_id)))


def variables(**values: str) -> Any:
    from System import String
    from System.Collections.Generic import Dictionary

    found = Dictionary[String, String]()
    for name, value in values.items():
        found[name] = value
    return found


def answered(worker: Any, action: str, **data: Any) -> Any:
    return json.loads(wait(call(worker, action, **data)).Value.GetRawText())


def test_a_host_has_a_gguf_model_write_text(real: Make, tmp_path: Path) -> None:
    """Loaded, asked and unloaded by the host; what its cache takes is in the host's own types."""
    pytest.importorskip("xllamacpp", reason="llama.cpp is the extra gguf")
    pytest.importorskip("gguf", reason="it writes the model")
    write_llama(tmp_path / "m.gguf")
    (tmp_path / "models.yaml").write_text(
        "models: {writer: {path: m.gguf, params: {n_ctx: 512, threads: 1}}}"
    )
    worker = real("--models", str(tmp_path / "models.yaml"), "--plugin", "examples.plugins.text_generation")
    row = loaded(worker, "writer")
    assert (str(row.State), row.Loader, row.KvBytes) == ("Loaded", "gguf", 512 * row.KvBytesPerToken)
    answer = answered(worker, "text.generate", prompt="aaa", max_tokens=5, seed=1)
    assert (answer["tokens"], answer["finish_reason"]) == (5, "length")
    gone = unloaded(worker, "writer")
    assert gone.KeptBytes == 0 and gone.Steps.Count > 0


def test_a_host_has_a_torchscript_program_listen(real: Make, tmp_path: Path) -> None:
    """silero-vad hears no voice in silence."""
    pytest.importorskip("torch", reason="it is the extra torch")
    voice_activity.make_model(tmp_path, wheel("silero-vad"))
    worker = real("--models", str(tmp_path / "models.yaml"), "--plugin", "examples.plugins.voice_activity")
    assert loaded(worker, "voice").Loader == "torch.jit"
    answer = answered(worker, "voice.activity", pcm16=base64.b64encode(bytes(2 * 1024)).decode())
    assert answer["piece_ms"] == 32 and len(answer["speech"]) == 2 and max(answer["speech"]) < 0.3
    assert unloaded(worker, "voice").KeptBytes == 0


def test_a_host_has_an_onnx_model_tell_files_apart(real: Make, tmp_path: Path) -> None:
    """Magika knows this program by its text; the labels come by the worker's environment."""
    pytest.importorskip("onnxruntime", reason="it is the extra onnx")
    file_type.make_model(tmp_path, wheel("magika"))
    worker = real(
        "--models", str(tmp_path / "models.yaml"), "--plugin", "examples.plugins.file_type",
        Environment=variables(FILE_TYPE_LABELS=str(tmp_path / "labels.json")),
    )  # fmt: skip
    assert loaded(worker, "file-type").Loader == "onnx"
    answer = answered(worker, "file.type", content=base64.b64encode(Path(__file__).read_bytes()).decode())
    assert answer["kind"] == "python"
    assert unloaded(worker, "file-type").KeptBytes == 0

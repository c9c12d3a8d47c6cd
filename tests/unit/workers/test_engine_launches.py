"""What engines are to open: worked out once for files as they are, and what is missing is said in one sentence."""

from pathlib import Path

import pytest

from tests.rigs import onnx_files
from tests.unit.machine import Machine
from worker.backends.engines.base import EngineLaunch
from worker.backends.engines.pool import _explained
from worker.backends.isolation.codec import RemoteError
from worker.core.errors import ModelLoadFailedError
from worker.core.models import ModelSpec
from worker.loaders import onnx_loader
from worker.loaders.gguf_loader import REMEDIES as GGUF
from worker.loaders.onnx_loader import OnnxLoader
from worker.workers.engine_launches import EngineLaunches


def test_a_header_is_read_again_where_the_file_is_another(tmp_path, monkeypatch):
    """Or its declaration, or a file beside it; a launch has the size that the header says."""
    read = []
    reading = onnx_loader.read_header
    monkeypatch.setattr(onnx_loader, "read_header", lambda *of: read.append(of) or reading(*of))
    launches, loader = EngineLaunches(), OnnxLoader()
    path, beside = tmp_path / "m.onnx", tmp_path / "w.bin"
    path.write_bytes(onnx_files.scaling(100, location="w.bin", length=400))
    beside.write_bytes(bytes(400))

    def launch(**params: int):
        spec = ModelSpec("m", "onnx", path, tmp_path, params=tuple(params.items()))
        return launches.of(spec, loader)

    assert launch().estimated_bytes == 400
    assert launch() is launch()
    assert len(read) == 1
    assert launch(intra_op_num_threads=2).params["intra_op_num_threads"] == 2
    launch()
    assert len(read) == 3
    beside.write_bytes(bytes(500))
    launch()
    assert len(read) == 4
    path.write_bytes(onnx_files.scaling(8))
    assert launch().estimated_bytes == 32
    assert len(read) == 5
    other = tmp_path / "new"
    other.write_bytes(onnx_files.scaling(8))
    other.replace(path)
    launch()
    assert len(read) == 6


def test_more_bytes_than_can_be_counted_are_refused(tmp_path):
    """What a file claims may be any number: such a model is broken, and no headroom is looked for."""
    path = tmp_path / "m.onnx"
    weights = [onnx_files.tensor(name, (2**60,), onnx_files.FLOAT, b"") for name in "abc"]
    path.write_bytes(onnx_files.model([], weights, [], []))
    with pytest.raises(
        ModelLoadFailedError, match="claims 13835058055282163712 bytes, which can't be counted"
    ):
        EngineLaunches().of(ModelSpec("m", "onnx", path, tmp_path), OnnxLoader())


def test_what_was_read_of_a_model_goes_with_its_declaration(tmp_path):
    """Else a worker whose models change for ever would know all that there ever were."""
    specs = []
    for name in "ab":
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(onnx_files.scaling(8))
        specs.append(ModelSpec(name, "onnx", path, tmp_path))
    machine = Machine(tmp_path, models=tuple(specs))
    launches = machine.models.weights.launches
    for spec in specs:
        launches.of(spec, OnnxLoader())
    machine.models.reload(specs[:1], ())
    assert list(launches._known) == ["a"]


@pytest.mark.parametrize(
    ("module", "remedies"),
    [("xllamacpp", GGUF), ("onnxruntime", onnx_loader.REMEDIES)],
)
def test_what_is_missing_is_said_once(module, remedies):
    """Where a library went away since it was looked for."""
    launch = EngineLaunch("library:Engine", Path("m"), {}, remedies=remedies)
    said = _explained(RemoteError("ModuleNotFoundError", "No module", module), launch)
    assert said.startswith(f"needs {module}, which is not installed: pip install memory-worker[")
    assert said.count("needs") == said.count("not installed") == 1

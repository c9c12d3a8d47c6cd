"""ONNX files: read as far as their header without the library, refused in words, and run in an engine process."""

import struct
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.vocabulary import ModelState, UnloadMode
from tests.rigs import onnx_files, onnx_work
from tests.unit.machine import MIB, Machine
from worker.core.clock import SystemClock
from worker.core.errors import ModelLoadFailedError, UnsupportedError
from worker.core.models import AUTO_LOADER, ModelSpec, Placement
from worker.loaders.model_path import model_files
from worker.loaders.onnx_loader import OnnxLoader
from worker.loaders.registry import inferred, loader_of
from worker.plugins._leases import Models
from worker.stream.work import Call
from worker.telemetry.system import SystemMemory

Make = Callable[..., Machine]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Return what puts a machine together with ONNX models by file."""
    made: list[Machine] = []

    def put_together(path: Path, **more: Any) -> Machine:
        shared = tmp_path / "shared"
        shared.mkdir(exist_ok=True)
        spec = declared(path, **more)
        made.append(Machine(shared, models=(spec,), clock=SystemClock(), system=SystemMemory()))
        return made[-1]

    yield put_together
    for each in made:
        each.memory.close()


def declared(path: Path, params: dict[str, Any] | None = None, **more: Any) -> ModelSpec:
    given = {"intra_op_num_threads": 1} | (params or {})
    return ModelSpec("m", "onnx", path, path.parent, params=tuple(given.items()), **more)


def do(machine: Machine, work: Callable[..., Any], **data: Any) -> Any:
    with Models(machine.models, machine.clock).use("m") as weights:
        return weights.do(work, data, Call(machine.token(), lambda _done, _total: None))


def cause(spec: ModelSpec) -> str:
    with pytest.raises(ModelLoadFailedError) as caught:
        OnnxLoader().launch(spec)
    return str(caught.value.details["cause"])


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# ---- the header ----


def test_an_estimate_is_the_bytes_of_all_tensors_wherever_they_are(tmp_path):
    """Initialisers, constants of nodes and of the graphs in nodes, and what lies in other files."""
    inner = onnx_files.field(5, onnx_files.tensor("c", (3, 5), 1, bytes(60)))
    branch = onnx_files.node(
        "If", ("x",), ("y",), onnx_files.field(5, onnx_files.field(1, "then") + onnx_files.field(6, inner))
    )
    constant = onnx_files.node(
        "Constant",
        (),
        ("k",),
        onnx_files.field(5, onnx_files.field(5, onnx_files.tensor("", (4,), 7, bytes(32)))),
    )
    outside = onnx_files.tensor("w", (100,), 10, location="w.bin", offset=8, length=200)
    halves = onnx_files.tensor("q", (7,), 22, bytes(4))
    (tmp_path / "w.bin").write_bytes(bytes(208))
    path = write(tmp_path / "m.onnx", onnx_files.model([branch, constant], [outside, halves], [], []))
    assert OnnxLoader().estimate(declared(path)) == 60 + 32 + 200 + 4
    assert OnnxLoader().launch(declared(path)).files == (path, tmp_path / "w.bin")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"<!doctype html><html>", "it is a web page"),
        (onnx_files.field(1, 8), "it has no graph, so it is no ONNX model; download it again"),
        (
            onnx_files.scaling(64)[:-40],
            "it is cut short: at byte 12 it claims 326 bytes, and has 292; download it again",
        ),
        (b"\x08\x08\x3b", "it is damaged: what is at byte 3 is no field of an ONNX model; download it again"),
        (b"\x08" + b"\xff" * 11, "it is damaged: what is at byte 1 is no number"),
        (onnx_files.model([], [onnx_files.tensor("w", (2**40, 2**40), 1, b"")], [], []), "claims"),
    ],
)
def test_what_is_no_onnx_file_is_refused_in_words(tmp_path, content, said):
    """Before any library sees it, whatever it claims."""
    assert said in cause(declared(write(tmp_path / "m.onnx", content)))


def test_graphs_within_graphs_end_somewhere(tmp_path):
    """A file of a few kilobytes can nest them without end."""
    graph = b""
    for _ in range(40):
        graph = onnx_files.field(1, onnx_files.field(5, onnx_files.field(6, graph)))
    path = write(tmp_path / "m.onnx", onnx_files.field(7, graph))
    assert "nest deeper" in cause(declared(path))


def test_a_place_whose_name_is_longer_than_the_system_takes(tmp_path):
    """It is the model's fault, and no other."""
    path = write(tmp_path / "m.onnx", onnx_files.scaling(100, location="w" * 300, length=400))
    assert "its path is longer than the system takes" in cause(declared(path))


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "link.bin", ""])
def test_weights_in_other_files_stay_below_the_model_root(tmp_path, location):
    """A file can't have the engine read what lies outside, through no link either."""
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(400))
    (root / "link.bin").symlink_to(tmp_path / "secret.bin")
    path = write(root / "m.onnx", onnx_files.scaling(100, location=location, length=400))
    assert (
        "another file" in cause(declared(path)) if not location else repr(location) in cause(declared(path))
    )


def test_weights_that_are_missing_or_short_are_named(tmp_path):
    """With what to do about it."""
    path = write(tmp_path / "m.onnx", onnx_files.scaling(100, location="w.bin", offset=0, length=400))
    assert cause(declared(path)) == "its weights are in 'w.bin', which is not there: download it"
    weights = tmp_path / "w.bin"
    for content, said in (
        (bytes(300), "w.bin: it has 300 bytes, and the weights reach to 400: its download did not end"),
        (b"", "w.bin: it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "w.bin: it is a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "w.bin: it is a web page"),
    ):
        weights.write_bytes(content)
        assert cause(declared(path)).startswith(said)
    weights.unlink()
    weights.symlink_to("nowhere")
    assert cause(declared(path)).startswith("w.bin: it is a link to ")


def test_a_folder_is_the_model_and_not_its_weights(tmp_path):
    """Which are often a .bin beside it; what is wrong with a file of a folder names the file."""
    folder = tmp_path / "model"
    folder.mkdir()
    path = write(folder / "m.onnx", onnx_files.scaling(100, location="w.bin", offset=0, length=400))
    (folder / "w.bin").write_bytes(bytes(400))
    asked = replace(declared(path), path=folder, model_root=tmp_path)
    assert OnnxLoader().estimate(asked) == 400
    path.write_bytes(path.read_bytes()[:20])
    assert cause(asked).startswith("m.onnx: it is cut short")


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (
            {"threads": 4},
            "params.threads is no option of the loader onnx; there are providers, intra_op_num_threads",
        ),
        ({"intra_op_num_threads": -1}, "params.intra_op_num_threads is to be a whole number from 0 to 4096"),
        (
            {"intra_op_threads": 2},
            "params.intra_op_threads is no option of the loader onnx; did you mean 'intra_op_num_threads'?",
        ),
        (
            {"providers": ["cdua", "cpu"]},
            "params.providers: cdua is no provider of onnxruntime's; did you mean 'cuda'?",
        ),
        ({"providers": []}, "params.providers is empty"),
        ({"providers": [{"cuda": 1}]}, "params.providers is to be a list of names"),
        ({"graph_optimization_level": "max"}, "one of disable, basic, extended, layout, all"),
    ],
)
def test_params_are_checked_before_anything_is_started(tmp_path, params, said):
    """Each with the option's name, and what it may be."""
    path = write(tmp_path / "m.onnx", onnx_files.scaling(4))
    assert said in cause(declared(path, params))


def test_a_provider_says_on_which_device_a_model_is():
    """The first one counts; the machine's own memory is none that has to be named."""
    path = Path("m.onnx")
    device_id = OnnxLoader().device_id
    assert device_id(declared(path)) is None
    assert device_id(declared(path, {"providers": ["cuda", "cpu"]})) == "cuda:0"
    assert device_id(declared(path, {"providers": [{"dml": {"device_id": 1}}]})) == "dml:1"


# ---- in the engine ----


def test_a_model_runs_in_its_engine(make, tmp_path):
    """With weights in the file or beside it; the session is onnxruntime's own."""
    count = 1000
    inside = write(tmp_path / "inside.onnx", onnx_files.scaling(count, 3.0))
    assert do(make(inside), onnx_work.sum_of, size=count) == pytest.approx(3.0 * count)
    (tmp_path / "w.bin").write_bytes(struct.pack("<f", 5.0) * count)
    beside = write(
        tmp_path / "beside.onnx", onnx_files.scaling(count, location="w.bin", offset=0, length=4 * count)
    )
    assert do(make(beside), onnx_work.sum_of, size=count) == pytest.approx(5.0 * count)


def test_an_arena_that_grew_is_seen_and_given_back(make, tmp_path):
    """Onnxruntime's working memory is the model's, until shrinking takes it back; the model still runs."""
    machine = make(write(tmp_path / "m.onnx", onnx_files.spreading()))
    assert do(machine, onnx_work.spread, count=16 * MIB) == 16 * MIB
    (row,) = machine.memory.models.rows()
    assert row.working_bytes > 60 * MIB
    shrunk = machine.memory.models.unload("m", UnloadMode.SHRINK, machine.token())
    assert shrunk.returned_bytes > 60 * MIB
    (row,) = machine.memory.models.rows()
    assert row.state is ModelState.LOADED
    assert row.working_bytes < 4 * MIB
    assert do(machine, onnx_work.spread, count=100) == 100


def test_arrays_go_there_and_back_through_shared_memory(make, tmp_path):
    """Of any shape and type, empty ones too; what comes back is the caller's own. Calls at once don't share a place."""
    count = 300_000
    machine = make(write(tmp_path / "m.onnx", onnx_files.scaling(count)))
    given = np.arange(count, dtype=np.float32)
    (first,) = do(machine, onnx_work.run, inputs={"x": given})
    (second,) = do(machine, onnx_work.run, inputs={"x": -given[::1]})
    assert np.array_equal(first, 2 * given)
    assert np.array_equal(second, -2 * given)
    inside = [np.zeros((0, 3)), np.arange(6, dtype=">i2").reshape(2, 3).T, 7]
    back = do(machine, onnx_work.sizes, text=b"some bytes", list=inside)
    assert (back["bytes"], bytes(back["back"])) == (10, b"some bytes")
    for sent, came in zip(inside[:2], back["same"][:2], strict=True):
        assert (sent.shape, sent.dtype) == (came.shape, came.dtype)
        assert np.array_equal(sent, came)
    assert back["same"][2] == 7
    with ThreadPoolExecutor(4) as threads:
        each = list(
            threads.map(lambda k: do(machine, onnx_work.run, inputs={"x": given * k})[0][1], range(12))
        )
    assert each == [2 * k for k in range(12)]


def test_a_provider_that_is_not_there_is_refused_with_those_that_are(make, tmp_path):
    """It is not run on the CPU instead."""
    path = write(tmp_path / "m.onnx", onnx_files.scaling(4))
    machine = make(path, params={"providers": ["qnn"]})
    with pytest.raises(
        ModelLoadFailedError, match=r"it asks for QNNExecutionProvider; onnxruntime .* CPUExecutionProvider"
    ):
        machine.load("m")


def test_a_graph_that_the_library_refuses_says_why(make, tmp_path):
    """In the library's words."""
    content = onnx_files.model(
        [onnx_files.node("NoSuchOperator", ("x",), ("y",))],
        [],
        [onnx_files.value("x", (1,))],
        [onnx_files.value("y", (1,))],
    )
    machine = make(write(tmp_path / "m.onnx", content))
    with pytest.raises(ModelLoadFailedError, match="NoSuchOperator"):
        machine.load("m")


def test_a_request_does_not_say_where_an_engine_runs(make, tmp_path):
    """Devices and providers are the operator's."""
    machine = make(write(tmp_path / "m.onnx", onnx_files.scaling(4)), device_id="cpu")
    with pytest.raises(UnsupportedError, match="not a request"):
        machine.load("m", device_id="sim:0")


# ---- real files ----


def test_a_real_speech_detector_hears_silence(make):
    """silero-vad: a graph of branches, with state in and out."""
    machine = make(onnx_files.real("silero"))
    assert 0 <= do(machine, onnx_work.speech, seconds=1) < 0.5


def test_a_real_file_detector_knows_python(make):
    """magika: what it is told to be is Python's own source."""
    machine = make(onnx_files.real("magika"))
    scores = do(machine, onnx_work.kinds, text=Path(onnx_work.__file__).read_text())
    assert max(scores) > 0.5


def test_a_real_reader_of_text_takes_many_times_its_file(make):
    """An OCR model of 4.7 MB takes a hundred MiB after its first run, which the next admission knows; all comes back."""
    path = onnx_files.real("ocr")
    machine = make(path)
    assert do(machine, onnx_work.pixels, size=640) == 640 * 640
    (row,) = machine.memory.models.rows()
    assert row.working_bytes > 10 * path.stat().st_size
    done = machine.memory.models.unload("m", UnloadMode.UNLOAD, machine.token())
    assert done.kept_bytes < 0.05 * done.claimed_bytes
    _, needed = machine.models.placement.requirement("m", None, machine.token())
    assert needed > 10 * path.stat().st_size


def test_a_library_that_is_not_installed_is_told_before_the_first_load(make, monkeypatch):
    """With what to install; what the file says of its size is known all the same."""
    monkeypatch.setattr("worker.loaders.onnx_loader.find_spec", lambda _name: None)
    machine = make(onnx_files.real("magika"))
    machine.models.estimate()
    (row,) = machine.memory.models.rows()
    assert "needs onnxruntime, which is not installed: pip install memory-worker[onnx]" in row.state_reason
    assert row.estimated_bytes > MIB


@pytest.mark.parametrize(
    ("key", "value"), [("dtype", "F16"), ("offload", True), ("placement", Placement.COPY)]
)
def test_what_means_nothing_to_an_engine_is_refused_where_its_loader_is_inferred(tmp_path, key, value):
    """The file's contents say that it is an engine's: then its size is not looked up, and it is not loaded."""
    (tmp_path / "m.bin").write_bytes(onnx_files.real("magika").read_bytes())
    spec = inferred(ModelSpec("m", AUTO_LOADER, tmp_path / "m.bin", tmp_path, **{key: value}))
    assert spec.loader == "onnx"
    with pytest.raises(ModelLoadFailedError, match=f"{key}: has no meaning for an engine's model: "):
        loader_of(spec)


ZEROS, PICKLED, RANDOM = bytes(400), b"\x80\x02" + bytes(398), b"\x9c\xc4\x20\xb0" * 100


@pytest.mark.parametrize("data", [ZEROS, PICKLED, RANDOM])
@pytest.mark.parametrize(("model", "name"), [("net.onnx", "weights.bin"), ("model.onnx", "model.bin")])
def test_a_folder_is_not_taken_for_what_holds_its_onnx_models_weights(tmp_path, model, name, data):
    """Whatever that is called, and whatever its first bytes happen to be."""
    (tmp_path / "m").mkdir()
    path = write(tmp_path / "m" / model, onnx_files.scaling(100, location=name, offset=0, length=400))
    (tmp_path / "m" / name).write_bytes(data)
    spec = replace(declared(tmp_path / "m"), loader=AUTO_LOADER, model_root=tmp_path)
    found = inferred(spec)
    assert found.loader == "onnx"
    assert OnnxLoader().launch(found).files == (path, tmp_path / "m" / name)


def test_a_bin_beside_an_onnx_model_that_is_a_model_is_taken_as_before(tmp_path):
    """Also what stands for one and is none yet: that is told, and not passed over."""
    (tmp_path / "m").mkdir()
    write(tmp_path / "m" / "model.onnx", onnx_files.scaling(100))
    weights = tmp_path / "m" / "pytorch_model.bin"
    spec = replace(declared(tmp_path / "m"), loader=AUTO_LOADER, model_root=tmp_path)
    with zipfile.ZipFile(weights, "w") as archive:
        archive.writestr("pytorch_model/data.pkl", b"")
    assert inferred(spec).loader == "torch"
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ModelLoadFailedError, match="Git LFS pointer"):
        inferred(spec)
    weights.write_bytes(RANDOM)
    assert model_files(replace(spec, loader="torch")).real == (weights,)

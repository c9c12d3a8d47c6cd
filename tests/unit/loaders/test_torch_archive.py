"""What a torch file says of its tensors is known without torch, exactly; nothing in it is run, and it takes little."""

import argparse
import collections
import datetime as dt
import decimal
import fractions
import pickle
import struct
import subprocess
import sys
import types
import zipfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
np = pytest.importorskip("numpy")

from tests.e2e.process import ROOT
from worker.core.cancellation import CancelToken
from worker.core.errors import ModelLoadFailedError
from worker.core.models import AUTO_LOADER, ModelSpec
from worker.loaders.placing import place
from worker.loaders.registry import inferred, loader_of
from worker.loaders.tensors import as_tensors

MIB = 2**20
FORMATS = {"zip": True, "older": False}


def saved(path: Path, state: object, form: str = "zip") -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=FORMATS[form])
    return path


def loaded(path: Path, dtype: str | None = None) -> tuple[dict, tuple[str, ...], int]:
    """Return the tensors, what was passed over, and the block's bytes."""
    spec = ModelSpec("m", "torch", path, path.parent, dtype)
    file = loader_of(spec).open(spec)
    block = bytearray(file.total_bytes)
    place(file, memoryview(block), CancelToken(lambda: 0))
    file.close()
    return as_tensors(memoryview(block), file.tensors), file.passed_over, file.total_bytes


def flat(value: object, name: str = ""):
    """Yield every tensor by path, as the reference has it."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(each, f"{name}.{key}" if name else str(key))


def bits(tensor) -> list[int]:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist() if tensor.numel() else []


def states() -> dict[str, object]:
    weight = torch.randn(64, 33)
    words = torch.arange(900, 912).to(torch.uint16)
    module = torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.BatchNorm1d(5))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(3, 8)).sum().backward()
    optimizer.step()
    return {
        "a module's": module.state_dict(),
        "nested, shared and transposed": {"a": {"b": weight, "c": weight.t()}, "d": weight[3:5]},
        "parameters": {"p": torch.nn.Parameter(weight), "b": torch.nn.Buffer(weight + 1)},
        "every type": {
            name: torch.zeros(3, 7).to(getattr(torch, name))
            for name in ("float64", "float16", "bfloat16", "int8", "uint8", "bool", "int64", "complex64", "complex128")
        },
        "newer types": {
            name: torch.zeros(5).to(getattr(torch, name)) for name in ("float8_e4m3fn", "uint16", "float8_e4m3fnuz")
        },
        "types that are only bits": {
            name: torch.arange(8, dtype=torch.uint8).view(getattr(torch, name))
            for name in ("bits8", "bits16", "bits1x8", "bits2x4", "bits4x2", "float4_e2m1fn_x2") if hasattr(torch, name)
        },
        "views of several types": {"a": words, "b": words.view(torch.uint32)[2:], "c": words[1:3], "d": words.view(torch.float8_e5m2), "own": weight},
        "empty": {},
        "no dimension": {"x": torch.tensor(3.0), "y": torch.empty(0, 4)},
        "a tensor": {"": torch.ones(3)},
        "a checkpoint": {
            "model": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "arch": "linear", "best": None,
            "dtype": torch.float32, "history": [1.5, 2.5], "size": torch.Size([3]), "tags": {"a"}, "raw": b"x", "z": 1j,
        },
        "lists and tuples": [weight, (weight[0], {"deep": weight[:, 1]})],
        "with gaps": {"rows": weight[::3, 2:], "columns": torch.randn(90, 40)[1:80:2, ::5], "turned": torch.randn(9, 8, 7)[::2].permute(2, 0, 1)[1:]},
        "expanded": {"e": torch.arange(4.0).expand(5, 4), "one": torch.ones(1).expand(9)},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "form"),
    [
        (name, form)
        for name in states()
        for form in FORMATS
        if form == "zip" or name not in {"newer types", "types that are only bits", "views of several types"}
    ],
)
def test_what_is_read_is_what_torch_reads(tmp_path, name, form):
    """Every tensor under its path, equal to the reference; the estimate is what the load takes."""
    state = states()[name]
    path = saved(tmp_path / "m.pt", state, form)
    found, _, total = loaded(path)
    wanted = dict(flat(torch.load(path, weights_only=True)))
    assert [each or "tensor" for each in wanted] == list(found)
    for key, tensor in wanted.items():
        assert found[key or "tensor"].dtype == tensor.dtype, key
        assert bits(found[key or "tensor"]) == bits(tensor), key
    assert loader_of(ModelSpec("m", "torch")).estimate(ModelSpec("m", "torch", path, tmp_path)) == total


@pytest.mark.parametrize("dtype", ["F16", "F64"])
@pytest.mark.parametrize(
    "name",
    ["views of several types", "a checkpoint", "with gaps", "expanded", "nested, shared and transposed"],
)
def test_a_cast_keeps_what_is_shared(tmp_path, name, dtype):
    """Tensors that share storage still do after a cast, and take their bytes once."""
    path = saved(tmp_path / "m.pt", states()[name])
    found, _, _ = loaded(path, dtype)
    target = {"F16": torch.float16, "F64": torch.float64}[dtype]
    for key, tensor in flat(torch.load(path, weights_only=True)):
        wanted = tensor.to(target) if tensor.is_floating_point() else tensor
        assert found[key].dtype == wanted.dtype and torch.equal(found[key], wanted), key


def test_plain_values_beside_tensors_are_named_and_passed_over(tmp_path):
    """A checkpoint's numbers and texts are passed over by name; its tensors load."""
    path = saved(tmp_path / "m.pt", states()["a checkpoint"])
    _, passed, _ = loaded(path)
    kinds = dict(each.split(": ") for each in passed)
    assert kinds["epoch"] == "int" and kinds["arch"] == "str" and kinds["best"] == "NoneType"
    assert kinds["history.0"] == "float" and kinds["optimizer.param_groups.0.lr"] == "float"


@pytest.mark.parametrize("form", FORMATS)
def test_plain_values_of_the_standard_library_and_numpy_are_passed_over(tmp_path, form):
    """What people save beside weights, such as which torch wrote them, holds no tensor and costs no load."""
    values = {
        "torch": torch.__version__, "path": Path("x"), "day": dt.date(2024, 1, 1), "noon": dt.time(12),
        "utc": dt.UTC, "decimal": decimal.Decimal("1.5"), "half": fractions.Fraction(1, 2), "steps": range(3),
        "space": types.SimpleNamespace(a=1), "args": argparse.Namespace(b=2), "float": np.float64(3), "array": np.zeros(3),
    }  # fmt: skip
    for protocol in (2, 5):
        path = tmp_path / f"{protocol}.pt"
        state = {"w": torch.zeros(4), **values}
        torch.save(state, path, _use_new_zipfile_serialization=FORMATS[form], pickle_protocol=protocol)
        _, passed, total = loaded(path)
        assert total == 16 and [each.partition(":")[0] for each in passed] == list(values)
        assert dict(each.split(": ") for each in passed)["torch"] == "str"


@pytest.mark.parametrize("form", FORMATS)
def test_a_class_as_a_key_is_its_name(tmp_path, form):
    """As in checkpoints of Stable Diffusion 1: what its callbacks kept, by their classes, which are not imported."""
    kept = {"best": torch.ones(3), "dirpath": Path("x")}
    state = {"state_dict": {"w": torch.zeros(4)}, "callbacks": {collections.OrderedDict: kept}}
    found, passed, total = loaded(saved(tmp_path / "m.pt", state, form))
    assert found.keys() == {"state_dict.w", "callbacks.collections.OrderedDict.best"}
    assert (passed, total) == (("callbacks.collections.OrderedDict.dirpath: path",), 64 + 12)


def test_views_of_several_types_take_their_bytes_once(tmp_path):
    """As torch holds them, wherever in the storage the first begins; after a cast each type has its own."""
    raw = torch.arange(64).to(torch.uint16)
    state = {"a": raw[3:40], "b": raw.view(torch.uint32)[2:30]}
    assert loaded(saved(tmp_path / "m.pt", state))[2] == 30 * 4 - 4
    eighths = torch.zeros(1000).to(torch.float8_e4m3fn)
    path = saved(tmp_path / "f8.pt", {"f8": eighths, "u8": eighths.view(torch.uint8)})
    assert loaded(path)[2] == 1000
    assert loaded(path, "F32")[2] == 4032 + 1000


@pytest.mark.parametrize("form", FORMATS)
def test_tensors_that_share_storage_take_their_bytes_once(tmp_path, form):
    """Tied, transposed, sliced and expanded: as torch itself would hold them; a slice alone takes its own."""
    weight = torch.randn(256, 256)
    for state, wanted in (
        ({"a": weight, "b": weight, "c": weight.t(), "d": weight[3:9]}, weight.nbytes),
        ({"one": torch.ones(1).expand(1000)}, 4),
        ({"few": weight[:, :2]}, 256 * 2 * 4),
        ({"front": weight[:3], "back": weight[200:]}, (3 + 56) * 1024),
    ):
        found, _, total = loaded(saved(tmp_path / "m.pt", state, form))
        assert total == wanted
        assert all(torch.equal(found[name], each) for name, each in state.items())


class Trap:
    """What would leave a file behind if it were run."""

    def __reduce__(self):
        return (Path.touch, (Path("trap-was-sprung"),))


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def long(value: int) -> bytes:
    return b"\x8a\x0a" + value.to_bytes(10, "little")


def tensor(shape: bytes, strides: bytes) -> bytes:
    """Write what rebuilds a tensor of a storage of one element."""
    storage = b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x01tQ"
    hooks = b"\x89" + named("collections", "OrderedDict") + b")R"
    return (
        named("torch._utils", "_rebuild_tensor_v2")
        + b"("
        + storage
        + b"K\0"
        + shape
        + strides
        + hooks
        + b"tR"
    )


def archive(path: Path, body: bytes, kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as file:
        file.writestr("m/data.pkl", b"\x80\x02" + body + b".")
        file.writestr("m/data/0", bytes(4))
    return path


def shared(count: int, root: bytes) -> bytes:
    """Nest ``root`` in so many dicts, each of which has the one before twice."""
    body = root + b"q\0"
    for _ in range(count):
        body += b"}(" + text("a") + b"h\0" + text("b") + b"h\0u" + b"q\0"
    return body


BOMBS = {
    "a dict shared 2^40 times": shared(40, b"}"),
    "a tensor named 2^40 times": shared(40, tensor(b"K\1\x85", b"K\1\x85")),
    "a product of huge sizes": b"}" + text("t") + tensor(b"(" + long(2**62) * 60 + b"t", b"(" + b"K\0" * 60 + b"t") + b"s",
    "2^62 floats of stride 0": b"}" + text("t") + tensor(long(2**62) + b"\x85", b"K\0\x85") + b"s",
    "a bytearray of 2^60": b"}" + text("t") + named("builtins", "bytearray") + long(2**60) + b"\x85Rs",
    "a key that nests 2^60 times": b"}" + b"K\1" + b"2\x86" * 60 + tensor(b"K\1\x85", b"K\1\x85") + b"s",
    "a huge memo": b"}r\xff\xff\xff\x7fK\1",
    "millions of dicts": b"}" * (6 * MIB),
    "a storage's name that nests": b"K\1" + b"2\x86" * 60 + b"q\0" + b"(" + text("storage") + named("torch", "FloatStorage") + b"h\0" + text("cpu") + b"K\1tQ",
    "calls of calls": (named("torch._tensor", "_rebuild_from_type_v2") + named("torch", "Tensor")) * 50_000,
    "a name of a megabyte": named("a" * MIB, "b"),
    "keys of a megabyte": b"}" * 60 + text("k" * MIB) + tensor(b"K\1\x85", b"K\1\x85") + b"s",
}  # fmt: skip


def peak_bytes() -> int:
    """Return the most that this process ever had in memory."""
    figure = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(figure.split()[1]) * 1024


def estimated(path: Path) -> tuple[str, int]:
    """Estimate a file, in a process of its own. Returns the refusal, and what the process grew by at most."""
    spec = ModelSpec("m", "torch", path, path.parent)
    before = peak_bytes()
    try:
        said = str(loader_of(spec).estimate(spec))
    except ModelLoadFailedError as error:
        said = error.details["cause"]
    return said, peak_bytes() - before


@pytest.mark.skipif(sys.platform != "linux", reason="the most that a process had is read from /proc")
def test_a_pickle_that_stands_for_more_than_it_is_is_refused_at_little_cost(tmp_path):
    """Nothing in a pickle decides how much work or memory reading it takes."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for number, (name, body) in enumerate(BOMBS.items()):
            said, grown = pool.submit(estimated, archive(tmp_path / f"{number}.pt", body)).result()
            assert said.startswith(("it ", "its ", "'")), (name, said)
            assert grown < 256 * MIB, name


def test_what_is_compressed_is_not_inflated(tmp_path):
    """Sixty kilobytes of it could be gigabytes; and what is damaged in it would be an error of its own."""
    path = archive(tmp_path / "m.pt", b"}" * (32 * MIB), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 64 * 2**10
    spec = ModelSpec("m", "torch", path, tmp_path)
    with pytest.raises(ModelLoadFailedError, match="is compressed|is the most that is read"):
        loader_of(spec).estimate(spec)


@pytest.mark.parametrize("name", ["code", "text", "cut short", "no zip", "a tuple for a dict"])
def test_what_is_no_state_dict_is_not_run(tmp_path, monkeypatch, name):
    """What holds code, or no tensors, is refused without being run."""
    monkeypatch.chdir(tmp_path)
    bodies = {
        "code": pickle.dumps({"x": Trap()}, 2)[2:-1],
        "text": pickle.dumps("x", 2)[2:-1],
        "cut short": b"}(X\xff",
        "a tuple for a dict": b")K\x01K\x02s",
    }
    path = tmp_path / "m.pt"
    if name == "no zip":
        path.write_bytes(b"nothing")
    else:
        archive(path, bodies[name])
    spec = ModelSpec("m", "torch", path, tmp_path)
    with pytest.raises(ModelLoadFailedError):
        loader_of(spec).estimate(spec)
    assert not Path("trap-was-sprung").exists()


def test_a_torchscript_archive_is_for_a_loader_of_its_own(tmp_path, monkeypatch):
    """A program is no damaged state dict: it is found by its contents, and what is declared otherwise is told."""
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as file:
        for record in ("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"):
            file.writestr(record, b"\x80\x02}.")
        file.writestr("m/data/0", bytes(100))
        file.writestr("m/constants/0", bytes(60))
    spec = inferred(ModelSpec("m", AUTO_LOADER, path, tmp_path))
    assert (spec.loader, loader_of(spec).estimate(spec)) == ("torch.jit", 160)
    assert loader_of(spec).launch(spec).files == (path,)
    wrong = ModelSpec("m", "torch", path, tmp_path)
    with pytest.raises(ModelLoadFailedError, match="TorchScript archive .* declare the loader torch.jit"):
        loader_of(wrong).open(wrong)
    other = ModelSpec("m", "torch.jit", saved(tmp_path / "s.pt", {"x": torch.ones(1)}), tmp_path)
    with pytest.raises(ModelLoadFailedError, match="no TorchScript archive"):
        loader_of(other).launch(other)
    monkeypatch.setattr("worker.loaders.torch_library.find_spec", lambda _name: None)
    with pytest.raises(
        ModelLoadFailedError, match="TorchScript archive: it needs torch, which is not installed"
    ):
        loader_of(spec).launch(spec)


def test_without_torch_it_is_torch_that_is_missing(tmp_path, monkeypatch):
    """Where torch is not installed the error says so, with the command that mends it."""
    monkeypatch.setattr("worker.loaders.torch_library.find_spec", lambda _name: None)
    path = saved(tmp_path / "m.pt", {"x": torch.ones(2)})
    spec = ModelSpec("m", "torch", path, tmp_path)
    assert loader_of(spec).estimate(spec) == 8
    with pytest.raises(ModelLoadFailedError, match="it needs torch, which is not installed: pip install"):
        loader_of(spec).open(spec)


def test_a_worker_knows_the_size_at_the_start_and_has_not_imported_torch(tmp_path):
    """Estimates of torch files need no torch."""
    saved(tmp_path / "m.pt", {"x": torch.zeros(1000)})
    (tmp_path / "models.yaml").write_text("models: [{id: m, path: m.pt, loader: torch, device: cpu}]\n")
    ask = (
        "import sys; from worker.app.options import parse; from worker.app.memory import build_memory\n"
        "from worker.metrics.history import History; from worker.core.clock import SystemClock\n"
        "from worker.manager.manager_memory import MemoryManager; from worker.wiring import Core, NoEvents; from worker.core.health import Health\n"
        "clock = SystemClock()\n"
        "core = Core(clock, History(clock), NoEvents(), MemoryManager(clock), {}, Health())\n"
        "memory = build_memory(parse(['--models', sys.argv[1]]), core).memory\n"
        "memory.models.worker.estimates.wait(60)\n"
        "print(memory.models.status('m', ('cpu',)).models[0].estimated_bytes, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", ask, str(tmp_path / "models.yaml")],
        cwd=ROOT, capture_output=True, check=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["4000", "False"]

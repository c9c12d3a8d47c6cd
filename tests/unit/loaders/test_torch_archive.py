"""The size of a torch file is known without torch, exactly, and nothing in the file is run for it."""

import io
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from tests.e2e.process import ROOT
from worker.core.models import ModelSpec
from worker.loaders.registry import loader_of
from worker.loaders.torch_archive import NotDescribedError, described_tensors


def saved(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def states() -> dict[str, object]:
    weight = torch.randn(64, 33)
    module = torch.nn.Sequential(torch.nn.Linear(8, 5), torch.nn.BatchNorm1d(5))
    return {
        "a module's": module.state_dict(),
        "nested, shared and transposed": {"a": {"b": weight, "c": weight.t()}, "d": weight[3:5]},
        "parameters": {"p": torch.nn.Parameter(weight)},
        "every type": {
            name: torch.zeros(3, 7).to(getattr(torch, name))
            for name in ("float64", "float16", "bfloat16", "int8", "uint8", "bool", "int64", "complex64")
        },
        "newer types": {
            name: torch.zeros(5).to(getattr(torch, name)) for name in ("float8_e4m3fn", "uint16")
        },
        "empty": {},
        "no dimension": {"x": torch.tensor(3.0), "y": torch.empty(0, 4)},
    }


@pytest.mark.parametrize("dtype", [None, "F16", "F64"])
@pytest.mark.parametrize("name", list(states()))
def test_the_estimate_is_what_the_load_takes(tmp_path, name, dtype):
    path = saved(tmp_path / "m.pt", states()[name])
    spec = ModelSpec("m", "torch", path, tmp_path, dtype)
    file = loader_of(spec).open(spec)
    assert loader_of(spec).estimate(spec) == file.total_bytes
    file.close()


class Trap:
    """What would leave a file behind if it were run."""

    def __reduce__(self):
        return (Path.touch, (Path("trap-was-sprung"),))


def archive(text: bytes) -> io.BytesIO:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("m/data.pkl", text)
    return made


@pytest.mark.parametrize(
    "name", ["code", "a list", "text", "a huge memo", "cut short", "no zip", "a tuple for a dict"]
)
def test_what_is_no_plain_state_dict_has_no_estimate_and_is_not_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    texts = {
        "code": pickle.dumps({"x": Trap()}, 2),
        "a list": pickle.dumps({"x": [1]}, 2),
        "text": pickle.dumps("x", 2),
        "a huge memo": b"\x80\x02}r\xff\xff\xff\x7f.",
        "cut short": pickle.dumps({}, 2)[:-1],
        "no zip": b"",
        "a tuple for a dict": b"\x80\x02)K\x01K\x02s.",
    }
    file = io.BytesIO(b"nothing") if name == "no zip" else archive(texts[name])
    if name == "a huge memo":
        assert described_tensors(file) == ()  # an entry of a table here, not an array of gigabytes
    else:
        with pytest.raises(NotDescribedError):
            described_tensors(file)
    assert not Path("trap-was-sprung").exists()


def test_a_worker_knows_the_size_at_the_start_and_has_not_imported_torch(tmp_path):
    saved(tmp_path / "m.pt", {"x": torch.zeros(1000)})
    (tmp_path / "models.yaml").write_text("models: [{id: m, path: m.pt, loader: torch, device: cpu}]\n")
    ask = (
        "import sys; from worker.app.options import parse; from worker.app.serve import build_memory\n"
        "from worker.metrics.history import History; from worker.core.clock import SystemClock\n"
        "clock = SystemClock()\n"
        "memory = build_memory(parse(['--models', sys.argv[1]]), clock, History(clock), lambda *_: None, lambda *_: None)\n"
        "print(memory.models.status('m', ('cpu',)).models[0].estimated_bytes, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", ask, str(tmp_path / "models.yaml")],
        cwd=ROOT, capture_output=True, check=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["4000", "False"]

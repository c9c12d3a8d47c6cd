"""Files that lie, are cut short, or hold code: one error with the cause, nothing run, nothing left open."""

import gc
import json
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
from safetensors import SafetensorError
from safetensors.torch import load as reference_load
from safetensors.torch import save as reference_save

from worker.core.cancellation import CancelToken
from worker.core.errors import ModelLoadFailedError
from worker.core.models import ModelSpec
from worker.loaders.placing import place
from worker.loaders.registry import loader_of
from worker.loaders.safetensors_header import HeaderError, parse_header

GOOD = {"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def refused(path: Path, loader: str, **more) -> str:
    """Open and place the file; return the cause it is refused for, with everything closed."""
    spec = ModelSpec("m", loader, path, more.pop("root", path.parent), **more)
    with pytest.raises(ModelLoadFailedError) as caught:
        loader_of(spec).open(spec)
    error = caught.value
    assert error.details["model_id"] == "m" and error.details["path"] == str(path)
    assert str(path) in error.message and error.details["cause"] in error.message
    assert error.body().code == "model_load_failed"
    del caught
    assert not opened(path)
    return error.details["cause"]


def opened(path: Path) -> bool:
    return is_open(path) and (gc.collect() is None or is_open(path))


def is_open(path: Path) -> bool:
    maps = Path("/proc/self/maps").read_text() if sys.platform == "linux" else ""
    files = [each.path for each in psutil.Process().open_files()]
    return str(path) in files or str(path) in maps


def safetensors(path: Path, header: object, data: bytes = bytes(8)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def tensor(**changed: object) -> dict:
    return {"t": {**GOOD["t"], **changed}}


@pytest.mark.parametrize(
    ("header", "told"),
    [
        (b"", "its header is not JSON"),
        (b"{", "its header is not JSON"),
        (b"\xff{}", "its header is not JSON"),
        (b"[]", "its header is not a JSON object"),
        (b"[" * 100_000, "its header nests too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "its header is not JSON"),
        (b'{"t": 1, "t": 2}', "its header has 't' twice"),
        ({"__metadata__": {"a": 1}, **GOOD}, "__metadata__ is not an object of strings"),
        ({"t": 3}, "tensor 't' is not an object of dtype, shape and data_offsets"),
        (
            {"t": {"dtype": "F32", "shape": [2]}},
            "tensor 't' is not an object of dtype, shape and data_offsets",
        ),
        (tensor(dtype="F33"), "tensor 't' has dtype 'F33'; known are F64, F32"),
        (tensor(dtype=["F32"]), "tensor 't' has dtype ['F32']"),
        (tensor(shape=[-2]), "shape that is not a list of up to 64 sizes"),
        (tensor(shape=[True, 2]), "shape that is not a list of up to 64 sizes"),
        (tensor(shape=[2.0]), "shape that is not a list of up to 64 sizes"),
        (tensor(shape=[0, 2**63]), "shape that is not a list of up to 64 sizes"),
        (tensor(shape=[1] * 65), "shape that is not a list of up to 64 sizes"),
        (tensor(shape=[3]), "tensor 't' of F32 [3] takes 12 bytes; its data_offsets hold 8"),
        (tensor(shape=[2**62, 2**62]), "its data_offsets hold 8"),
        (tensor(data_offsets=[8, 0]), "data_offsets that are not a begin and an end"),
        (tensor(data_offsets=[0]), "data_offsets that are not a begin and an end"),
        (tensor(data_offsets=[4, 12]), "tensor 't' begins at 4 and leaves a hole before it, which ends at 0"),
        (
            {**GOOD, "u": GOOD["t"]},
            "tensor 'u' begins at 0 and overlaps what comes before it, which ends at 8",
        ),
        (
            tensor(shape=[4], data_offsets=[0, 16]),
            "the file is truncated: its tensors take 16 bytes, it has 8",
        ),
        (tensor(shape=[1], data_offsets=[0, 4]), "the file has more than its header says"),
        ({}, "the file has more than its header says"),
    ],
)
def test_a_header_that_lies(tmp_path, header, told):
    """Each lie of a safetensors header is refused by what is wrong with it."""
    assert told in refused(safetensors(tmp_path / "m.safetensors", header), "safetensors")


@pytest.mark.parametrize("header", [tensor(extra=1), {"__metadata__": None, **GOOD}])
def test_what_the_reference_passes_over_is_passed_over(tmp_path, header):
    """Keys that a later version of the format may add, and metadata that is written as none."""
    path = safetensors(tmp_path / "m.safetensors", header)
    assert reference_load(path.read_bytes()).keys() == {"t"}
    spec = ModelSpec("m", "safetensors", path, tmp_path)
    assert loader_of(spec).estimate(spec) == 8


@pytest.mark.parametrize("loader", ["safetensors", "torch"])
def test_a_tensor_without_elements_takes_nothing(tmp_path, loader):
    """Wherever it is, no room is left for its alignment."""
    state = {
        "a": torch.zeros(0, 3),
        "b": torch.ones(5, dtype=torch.uint8),
        "c": torch.zeros(0),
        "d": torch.zeros(0),
    }
    path = tmp_path / "m"
    if loader == "safetensors":
        path.write_bytes(reference_save(state))
    else:
        torch.save(state, path)
    spec = ModelSpec("m", loader, path, tmp_path)
    assert loader_of(spec).estimate(spec) == 5


def test_lengths_that_lie(tmp_path):
    """A length that the file does not have is refused before anything is read by it."""
    path = tmp_path / "m.safetensors"
    for content, told in (
        (b"", "it is empty; its download never began"),
        (b"1234567", "it has 7 bytes"),
        (
            struct.pack("<Q", 2**64 - 1),
            "it claims a header of 18446744073709551615 bytes; 100000000 is the most",
        ),
        (struct.pack("<Q", 99_999_999) + b"{}", "it claims a header of 99999999 bytes; the file has 10"),
    ):
        path.write_bytes(content)
        assert told in refused(path, "safetensors")


def test_every_truncation_of_a_good_file_is_refused(tmp_path):
    """A file cut short at any byte is refused."""
    whole = reference_save({"a": torch.arange(5), "b": torch.ones(3, dtype=torch.bfloat16)})
    path = tmp_path / "m.safetensors"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path, "safetensors")


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_what_is_read_is_what_the_reference_reads(data):
    """Whatever bytes of the header are changed: never a crash, never other than the reference."""
    whole = bytearray(reference_save({"a": torch.arange(3, dtype=torch.int16), "b": torch.ones(2, 2)}))
    length = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(8, length - 1))] = data.draw(
            st.sampled_from(b'0123456789[]{},":FIB \x00\xff')
        )
    try:
        ours = {each.name: each for each in parse_header(bytes(whole[8:length]), len(whole) - length)}
    except HeaderError:
        return
    try:
        reference = reference_load(bytes(whole))
    except (SafetensorError, KeyError):
        return
    assert {name: each.shape for name, each in ours.items()} == {
        name: tuple(each.shape) for name, each in reference.items()
    }


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
    lambda value: json.dumps({"t": value, "u": {"dtype": "F32", "shape": value, "data_offsets": value}}).encode()
))  # fmt: skip
def test_garbage_for_a_header_is_an_error_in_words(text):
    """No text makes the header's reader fail otherwise than by its own error."""
    try:
        parse_header(text, 8)
    except HeaderError as error:
        assert str(error)


class Bomb:
    """A pickle of this makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_nothing_runs(tmp_path):
    """Whatever holds code is refused without a line of it being run."""
    mark = tmp_path / "ran"
    path = tmp_path / "m.pt"
    torch.save({"w": torch.ones(2), "x": Bomb(mark)}, path)
    assert "it holds more than tensors, and nothing of it was run" in refused(path, "torch")
    path.write_bytes(pickle.dumps(Bomb(mark)))
    assert "it is a plain pickle, of which nothing was run" in refused(path, "torch")
    torch.save({"x": Bomb(mark)}, path, _use_new_zipfile_serialization=False)
    assert "it holds more than tensors, and nothing of it was run" in refused(path, "torch")
    torch.save(torch.nn.Linear(2, 2), path)
    assert "nothing of it was run" in refused(path, "torch")
    assert not mark.exists()


def test_what_is_no_state_dict_is_refused_by_name(tmp_path):
    """What a state dict cannot hold is named by its path and type."""
    path = tmp_path / "m.pt"
    endless: dict = {}
    endless["again"] = endless
    deep: dict = {"w": torch.ones(1)}
    for _ in range(80):
        deep = {"d": deep}
    for state, told in (
        ({"epoch": 3, "names": ["x"]}, "it holds no tensors: 'epoch' is a int"),
        ("text", "it holds no tensors: what it holds is a str"),
        ({"a.b": torch.ones(1), "a": {"b": torch.ones(1)}}, "two of its tensors flatten to the name 'a.b'"),
        (endless, "'again' is inside itself"),
        (deep, "its containers nest deeper than 64"),
        ({(1, 2): torch.ones(1)}, "has a key that is a container"),
        ({"s": torch.eye(3).to_sparse()}, "tensor 's' is sparse"),
        ({"m": torch.ones(1, device="meta")}, "tensor 'm' is on meta"),
        ({"c": torch.ones(1, dtype=torch.complex64).conj()}, "tensor 'c' is a lazy view"),
    ):
        torch.save(state, path)
        assert told in refused(path, "torch"), told


def test_nested_tied_and_transposed_tensors_are_flattened(tmp_path):
    """Nested dicts are named by path; views, parameters and expanded tensors are read as they look."""
    path = tmp_path / "m.pt"
    base = torch.randn(700, 1100)
    state = {
        "a": {"t": base.t(), 3: base[::2, 5:]},
        "p": torch.nn.Parameter(base),
        "e": torch.ones(1).expand(9),
    }
    torch.save(state, path)
    spec = ModelSpec("m", "torch", path, tmp_path, "BF16")
    file = loader_of(spec).open(spec)
    block = bytearray(file.total_bytes)
    place(file, memoryview(block), CancelToken(lambda: 0))
    file.close()
    from worker.loaders.tensors import as_tensors

    found = as_tensors(memoryview(block), file.tensors)
    assert list(found) == ["a.t", "a.3", "p", "e"]
    for name, wanted in zip(found, (base.t(), base[::2, 5:], base, torch.ones(9)), strict=True):
        assert torch.equal(found[name], wanted.to(torch.bfloat16)), name


def test_archives_whose_records_are_not_the_bytes_themselves(tmp_path):
    """Compressed records and those of the other byte order are refused."""
    path, other = tmp_path / "m.pt", tmp_path / "n.pt"
    torch.save({"w": torch.randn(1000)}, path)
    for kind, swap, told in (
        (zipfile.ZIP_DEFLATED, b"little", "is compressed"),
        (zipfile.ZIP_STORED, b"big", "its byte order is not this machine's"),
    ):
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w", kind) as target:
            for name in source.namelist():
                target.writestr(name, swap if name.endswith("/byteorder") else source.read(name))
        assert told in refused(other, "torch")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_torch_file_with_changed_bytes_or_cut_short_never_does_worse_than_fail(tmp_path_factory, data):
    """Any damage is an error or tensors, never more."""
    folder = tmp_path_factory.mktemp("torch")
    path = folder / "m.pt"
    torch.save({"a": torch.arange(6), "b": torch.ones(3)}, path)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.just(len(whole)) | st.integers(0, len(whole)))])
    spec = ModelSpec("m", "torch", path, folder)
    try:
        file = loader_of(spec).open(spec)
    except ModelLoadFailedError:
        return
    if file.total_bytes < 2**20:
        place(file, memoryview(bytearray(file.total_bytes)), CancelToken(lambda: 0))
    file.close()


@pytest.mark.parametrize("loader", ["safetensors", "torch"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, loader):
    """A missing file, a folder, a pipe and a text are refused at once."""
    assert "there is no such file" in refused(tmp_path / "none", loader)
    (tmp_path / "folder").mkdir()
    assert "it is a folder" in refused(tmp_path / "folder", loader)
    os.mkfifo(tmp_path / "pipe")
    assert "it is a pipe, a socket or a device" in refused(tmp_path / "pipe", loader)
    (tmp_path / "text").write_text("hello, this is no model\n" * 10)
    refused(tmp_path / "text", loader)


@pytest.mark.parametrize("loader", ["safetensors", "torch"])
def test_a_link_that_leads_out_is_refused_at_the_load_too(tmp_path, loader):
    """It may have been made after the configuration was read."""
    root = tmp_path / "root"
    root.mkdir()
    torch.save({"w": torch.ones(2)}, tmp_path / "outside")
    (root / "link").symlink_to(tmp_path / "outside")
    assert "is not below the model root" in refused(root / "link", loader, root=root)


FACTORIES = """
import sys
made = []
def plain(): return "plain"
def some(device_id, *, path): return device_id, path
def every(**given): return sorted(given)
def wants(colour): return colour
def fails(): raise ValueError("no luck")
def leaves(): sys.exit(3)
class Panic(BaseException): pass
def panics(): raise Panic("called `Option::unwrap()`")
class Holder:
    @staticmethod
    def inner(spec, more=1): return spec.model_id, more
number = 3
"""


def test_factories_get_what_they_have_names_for(tmp_path, monkeypatch):
    """A factory is called with those of the known arguments that it names; others are refused by name."""
    (tmp_path / "their_factories.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)

    def build(function: str, path: Path | None = None) -> object:
        factory = f"their_factories:{function}"
        spec = ModelSpec("m", "module", path, tmp_path, factory=factory)
        assert loader_of(spec).estimate(spec) is None
        return loader_of(spec).build(spec, "cpu")

    assert build("plain") == "plain"
    assert build("some", tmp_path / "x") == ("cpu", tmp_path / "x")
    assert build("every") == ["device_id", "dtype", "path", "spec"]
    assert build("Holder.inner") == ("m", 1)
    for function, told in (
        ("wants", "wants 'colour', which is not in params; there are path, device_id, dtype, spec"),
        ("fails", "raised ValueError: no luck"),
        ("leaves", "raised SystemExit: 3"),
        ("panics", "raised Panic: called"),
        ("wans", "is not there: no 'wans' in their_factories; did you mean 'wants'"),
        ("number", "is a int, not a function"),
    ):
        with pytest.raises(ModelLoadFailedError, match=told):
            build(function)
    missing = ModelSpec("m", "module", factory="no_such_module_at_all:make")
    with pytest.raises(ModelLoadFailedError, match="is not there: no module"):
        loader_of(missing).build(missing, "cpu")

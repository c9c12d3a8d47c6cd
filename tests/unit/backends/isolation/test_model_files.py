"""Models on their way into a device's process: that reads their files by itself, wherever it can."""

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from protocol.vocabulary import Executed
from tests.e2e.process import eventually
from tests.rigs.model_files import spec, write_model
from tests.unit.isolation import MIB, SIMULATED, TORCH, ask, content_of, isolated, kill, needs_torch, never
from worker.backends.isolated import IsolatedBackend
from worker.backends.isolation import filling, loading
from worker.core.cancellation import CancelToken
from worker.core.errors import CancelledError, DeviceUnavailableError, ModelLoadFailedError
from worker.core.models import ModelSpec
from worker.loaders.base import WeightFile
from worker.loaders.placing import place_through
from worker.loaders.positional_file import PositionalFile
from worker.loaders.registry import loader_of

SIZES = (33 * MIB, 5, 0, *(4096 + index for index in range(700)), 9 * MIB + 1)
"""Longer than a chunk, shorter than a page, empty, and more small ones than are read in one go."""

pytestmark = pytest.mark.usefixtures("rigs")


class Reads:
    """How many bytes this process read of files since counting began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        self._monkeypatch = monkeypatch

    def begin(self) -> None:
        """Count from now on: what opening a file reads is over."""
        original = PositionalFile.read_into

        def read_into(file: PositionalFile, offset: int, target: memoryview) -> int:
            self.bytes += target.nbytes
            return original(file, offset, target)

        self._monkeypatch.setattr(PositionalFile, "read_into", read_into)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Return what counts."""
    return Reads(monkeypatch)


def opened(wanted: ModelSpec) -> WeightFile:
    """Open a model's files."""
    loader = loader_of(wanted)
    return loader.open(wanted)  # type: ignore[union-attr]  # all of them here are FileLoaders


def load(
    backend: IsolatedBackend, file: WeightFile, told: Callable[[int], None] = lambda _: None,
    token: CancelToken | None = None,
) -> None:  # fmt: skip
    """Load an open file's weights."""
    token = token or never()
    backend.load("m", ask(file.total_bytes), lambda _, write: place_through(file, write, token, told), token)


def check_content(backend: IsolatedBackend, file: WeightFile, tensors: dict[str, bytes]) -> None:
    """See that each tensor is in its place."""
    content = content_of(backend, "m", file.total_bytes)
    for each in file.tensors:
        assert content[each.offset : each.offset + each.placed_bytes] == tensors[each.name], each.name


@pytest.mark.parametrize("device", [SIMULATED, pytest.param(TORCH, marks=needs_torch)])
def test_the_process_reads_the_file(tmp_path: Path, reads: Reads, device: str) -> None:
    """Not a byte of the weights is read here; progress rises to the end, and nothing stays mapped or open there."""
    tensors = write_model(tmp_path / "m.safetensors", *SIZES)
    with isolated(device) as backend, closing(opened(spec(tmp_path / "m.safetensors"))) as file:
        backend.probe()
        told: list[int] = []
        reads.begin()
        load(backend, file, told.append)
        assert not reads.bytes
        assert told == sorted(told)
        assert told[-1] == sum(SIZES)
        check_content(backend, file, tensors)
        if sys.platform == "linux":
            assert "m.safetensors" not in Path(f"/proc/{backend.pid}/maps").read_text()
            there = Path(f"/proc/{backend.pid}/fd").iterdir()
            assert not [each for each in there if "m.safetensors" in str(each.readlink())]


def test_several_files_and_what_is_cast(tmp_path: Path, reads: Reads) -> None:
    """Each file is read there, and what is another type in the block is read and cast here."""
    torch = pytest.importorskip("torch")
    write_model(tmp_path / "model-00001-of-00002.safetensors", MIB, 6, seed=1)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(_renamed(tmp_path, torch))
    wanted = spec(tmp_path / "model-00001-of-00002.safetensors", dtype="BF16")
    with isolated() as backend, closing(opened(wanted)) as file:
        backend.probe()
        reads.begin()
        load(backend, file)
        assert reads.bytes == 4 * 1000
        content = content_of(backend, "m", file.total_bytes)
        cast = next(each for each in file.tensors if each.name == "cast")
        found = torch.frombuffer(bytearray(content[cast.offset : cast.offset + 2000]), dtype=torch.bfloat16)
        assert found.equal(torch.arange(1000).to(torch.bfloat16))
        kept = next(each for each in file.tensors if each.name == "kept")
        assert content[kept.offset : kept.offset + 8000] == torch.arange(1000).numpy().tobytes()


def _renamed(folder: Path, torch: object) -> bytes:
    from safetensors.torch import save_file

    path = folder / "written"
    save_file(
        {"cast": torch.arange(1000).float(), "kept": torch.arange(1000)},  # type: ignore[attr-defined]
        path,
    )
    content = path.read_bytes()
    path.unlink()
    return content


def test_files_of_torch(tmp_path: Path, reads: Reads) -> None:
    """Storages are read there as they lie; a view with gaps is gathered here."""
    torch = pytest.importorskip("torch")
    whole, gaps = torch.randn(MIB), torch.randn(1000, 50)[:, ::7]
    torch.save({"whole": whole, "gaps": gaps}, tmp_path / "m.pt")
    with isolated() as backend, closing(opened(spec(tmp_path / "m.pt", loader="torch"))) as file:
        backend.probe()
        reads.begin()
        load(backend, file)
        assert 0 < reads.bytes < MIB
        content = content_of(backend, "m", file.total_bytes)
        for each in file.tensors:
            expected = {"whole": whole, "gaps": gaps}[each.name].contiguous().numpy().tobytes()
            assert content[each.offset : each.offset + each.placed_bytes] == expected


@pytest.mark.parametrize("place", ["/nowhere/file", None, "another"])
def test_what_the_process_cannot_open_is_read_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str | None
) -> None:
    """Where it finds no file, or another, the weights are those of the file that was opened."""
    tensors = write_model(tmp_path / "m.safetensors", *SIZES)
    if place == "another":
        place = str(tmp_path / "another.safetensors")
        write_model(Path(place), *SIZES, seed=7)
    monkeypatch.setattr(loading, "_place_of", lambda _: place)
    with isolated() as backend, closing(opened(spec(tmp_path / "m.safetensors"))) as file:
        backend.probe()
        told: list[int] = []
        load(backend, file, told.append)
        assert told == sorted(told)
        assert told[-1] == sum(SIZES)
        check_content(backend, file, tensors)


@pytest.mark.skipif(sys.platform == "win32", reason="there a file that is open can't be replaced")
def test_a_file_that_is_replaced_while_it_is_loaded(tmp_path: Path) -> None:
    """The model is what was opened, whole: no byte of what lies at its path by then."""
    path = tmp_path / "m.safetensors"
    tensors = write_model(path, *SIZES)
    with isolated() as backend, closing(opened(spec(path))) as file:
        backend.probe()
        write_model(tmp_path / "new", *SIZES, seed=7)
        (tmp_path / "new").replace(path)
        load(backend, file)
        check_content(backend, file, tensors)


@pytest.mark.skipif(sys.platform == "win32", reason="there a file that is mapped can't be cut short")
@pytest.mark.parametrize(
    ("device", "option"),
    [("misbehaving_backends:CutsShort", "path"), pytest.param(TORCH, "cut_short", marks=needs_torch)],
)
def test_a_file_that_is_cut_short_while_it_is_loaded(tmp_path: Path, device: str, option: str) -> None:
    """It is an error that names the tensor; the process lives, nothing is left there, and the next load is right."""
    path = tmp_path / "m.safetensors"
    write_model(path, *SIZES)
    whole = tmp_path / "whole.safetensors"
    tensors = write_model(whole, *SIZES)
    with isolated(device, **{option: str(path)}) as backend:
        backend.probe()
        pid = backend.pid
        with (
            closing(opened(spec(path))) as file,
            pytest.raises(ModelLoadFailedError, match="cut short while it was read, in tensor 'layer.0'"),
        ):
            load(backend, file)
        assert backend.pid == pid
        assert not backend.live()
        with closing(opened(spec(whole))) as file:
            load(backend, file)
            check_content(backend, file, tensors)


@pytest.mark.parametrize("device", [SIMULATED, pytest.param(TORCH, marks=needs_torch)])
def test_cancelling_leaves_nothing(tmp_path: Path, device: str) -> None:
    """A load that is cancelled on its way is undone, and the next one is right."""
    tensors = write_model(tmp_path / "m.safetensors", *SIZES)
    with isolated(device) as backend, closing(opened(spec(tmp_path / "m.safetensors"))) as file:
        backend.probe()
        token = never()
        with pytest.raises(CancelledError):
            load(backend, file, lambda _: token.cancel(), token)
        # The answer to who cancelled waits for that process a quarter of a second and no longer.
        eventually(lambda: not backend.live(), "nothing of the model is left")
        load(backend, file)
        check_content(backend, file, tensors)


def test_a_process_that_dies_while_it_reads(tmp_path: Path) -> None:
    """The load fails for that, and was not done."""
    write_model(tmp_path / "m.safetensors", *SIZES)
    with isolated() as backend, closing(opened(spec(tmp_path / "m.safetensors"))) as file:
        backend.probe()
        killed: list[int] = []

        def end(_completed: int) -> None:
            if not killed:
                killed.append(kill(backend))

        with pytest.raises(DeviceUnavailableError) as raised:
            load(backend, file, end)
        assert raised.value.executed is Executed.NO


@pytest.mark.parametrize("whole", [True, False])
def test_a_load_has_no_file_open_once_it_has_ended(monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    """Neither one that is done, nor one that was given up: they are closed before the backend says what became of it."""
    told: list[str] = []

    class Files:
        def __init__(self, _guard: Any) -> None:
            pass

        def close(self) -> None:
            told.append("closed")

    class Backend:
        def load(self, _handle: str, _request: Any, fill: Any, _token: Any) -> str:
            try:
                fill(None, None)
            finally:
                told.append("ended")
            return "block"

    monkeypatch.setattr(filling, "ModelFiles", Files)
    backend: Any = Backend()
    guard: Any = None
    made = filling.Filling(backend, "m", ask(1), never(), guard)
    made.wait_until_ready()
    if whole:
        assert made.finish() == "block"
    else:
        made.give_up()
    assert told == ["closed", "ended"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says whose pages are whose")
def test_a_file_that_is_read_is_no_memory_of_the_process(tmp_path: Path) -> None:
    """What a load leaves in the process is the block alone."""
    from worker.telemetry.process_figures import private_bytes

    write_model(tmp_path / "m.safetensors", 64 * MIB)
    with isolated() as backend, closing(opened(spec(tmp_path / "m.safetensors"))) as file:
        backend.probe()
        before = private_bytes(backend.pid or 0) or 0
        load(backend, file)
        grown = (private_bytes(backend.pid or 0) or 0) - before
        assert 64 * MIB <= grown <= 72 * MIB

"""Loading real weights: equal to the bit, cast as torch casts, and nothing left behind."""

import gc
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")
from safetensors.torch import save_file

from worker.backends.host_memory import AnonymousBuffer
from worker.core.cancellation import CancelToken
from worker.core.errors import CancelledError, ModelLoadFailedError
from worker.core.models import ModelSpec
from worker.loaders.base import ALIGNMENT_BYTES, FileLoader, ObjectLoader
from worker.loaders.dtypes import FROM_TORCH, TORCH_NAMES
from worker.loaders.module_loader import ModuleLoader
from worker.loaders.placing import place, place_through
from worker.loaders.registry import loader_names, loader_of
from worker.loaders.tensors import Weights, as_tensors

MIB = 2**20
SHAPES = ((), (0,), (3, 0, 2), (1,), (7,), (3, 5), (2, 3, 4, 5), (1025, 33))
KINDS = {"safetensors": ".safetensors", "torch": ".pt"}


def token() -> CancelToken:
    return CancelToken(time.monotonic_ns)


def weights(kind: str) -> dict:
    """Every element type in every shape, of random bits where any bits will do."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for word, name in (TORCH_NAMES | ({"C128": "complex128"} if kind == "torch" else {})).items():
        dtype = getattr(torch, name)
        for shape in SHAPES:
            if word == "BOOL":
                made = torch.randint(0, 2, shape, generator=generator).bool()
            else:
                count = torch.empty(shape).numel() * dtype.itemsize
                bits = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator)
                made = bits.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)
            found[f"{word}{list(shape)}"] = made
    return found


def bits(tensor) -> bytes:
    flat = tensor.detach().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else b""


def saved(folder: Path, kind: str, state: dict, name: str = "model") -> Path:
    path = folder / f"{name}{KINDS[kind]}"
    if kind == "torch":
        torch.save(state, path)
    else:
        save_file(state, path)
    return path


def spec(path: Path, loader: str, dtype: str | None = None) -> ModelSpec:
    return ModelSpec("m", loader, path, path.parent, dtype)


def placed(wanted: ModelSpec) -> tuple[AnonymousBuffer, tuple]:
    file = loader_of(wanted).open(wanted)
    block = AnonymousBuffer(max(1, file.total_bytes))
    try:
        with block.view as view:
            place(file, view, token())
    finally:
        file.close()
    return block, file.tensors


def descriptors_and_maps(path: Path) -> tuple[int, int]:
    gc.collect()
    maps = Path("/proc/self/maps").read_text() if sys.platform == "linux" else ""
    return psutil.Process().num_fds() if os.name == "posix" else 0, maps.count(str(path))


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_and_shape_arrives_equal_to_the_bit(tmp_path, kind):
    """Each dtype and shape that torch writes is read back bit for bit, aligned, with nothing left open."""
    state = weights(kind)
    path = saved(tmp_path, kind, state)
    before = descriptors_and_maps(path)
    block, tensors = placed(spec(path, kind))
    assert all(each.offset % ALIGNMENT_BYTES == 0 for each in tensors)
    found = as_tensors(block.view, tensors)
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape, name
        assert bits(found[name]) == bits(tensor), name
        assert found[name].data_ptr() % 64 == 0
    assert loader_of(spec(path, kind)).estimate(spec(path, kind)) <= block.size_bytes
    del found
    assert descriptors_and_maps(path) == before
    block.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_a_cast_is_torchs_own_and_leaves_integers_alone(tmp_path, kind, dtype):
    """Casts round as torch does; integers and booleans stay what they are."""
    state = {name: each for name, each in weights(kind).items() if not each.is_complex()}
    state["long"] = torch.randn(3 * MIB + 5)
    target = getattr(torch, TORCH_NAMES[dtype])
    path = saved(tmp_path, kind, state)
    block, tensors = placed(spec(path, kind, dtype))
    found = as_tensors(block.view, tensors)
    for name, tensor in state.items():
        wanted = tensor.to(target) if tensor.dtype.is_floating_point else tensor
        assert found[name].dtype == wanted.dtype, name
        same = (
            torch.equal(found[name].nan_to_num(), wanted.nan_to_num()) if wanted.is_floating_point() else None
        )
        assert same if same is not None else bits(found[name]) == bits(wanted), name
    del found
    block.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [None, "F16"])
def test_loading_takes_little_beside_the_block_and_unloading_gives_all_of_it_back(tmp_path, kind, dtype):
    """Measured in a process of its own: what others free meanwhile must not count."""
    saved(tmp_path, kind, {f"layer{index}": torch.randn(8 * MIB) for index in range(3)})
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        loads = [pool.submit(measured_load, tmp_path, kind, dtype).result() for _ in range(3)]
    # What the C library keeps for its threads comes and goes; what a load keeps, every load does.
    assert min(beside for beside, _, _ in loads) < 64 * MIB
    assert min(left for _, left, _ in loads) < 0.01 * loads[0][2] + 2 * MIB


def measured_load(folder, kind, dtype):
    """Load what was saved; returns the most bytes beside the block, those left after, and the block's."""
    torch.ones(4 * MIB).to(torch.float16)  # torch's own threads and caches are not the load's
    wanted = spec(next(folder.iterdir()), kind, dtype)
    placed(wanted)[0].close()
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    file = loader_of(wanted).open(wanted)
    block = AnonymousBuffer(file.total_bytes)
    peak = 0

    def done(completed: int) -> None:
        nonlocal peak
        peak = max(peak, process.memory_info().rss - completed)

    with block.view as view:
        place(file, view, token(), done)
    file.close()
    held = Weights(block.view, file.tensors)
    assert held["layer0"].numel() == 8 * MIB and len(held) == len(list(held)) == 3
    assert held.close()
    block.close()
    return peak - before, process.memory_info().rss - before, file.total_bytes


def test_a_tensor_that_outlives_its_model_reads_zeros_and_does_not_crash(tmp_path):
    """A tensor that is kept after the unload reads zeros; its memory went back all the same."""
    path = saved(tmp_path, "safetensors", {"a": torch.ones(4 * MIB), "b": torch.ones(2)})
    block, tensors = placed(spec(path, "safetensors"))
    view = block.view
    held = Weights(view, tensors)
    kept = held["a"][5:9]
    view.release()
    assert not held.close()
    with pytest.raises(KeyError):
        held["a"]
    assert block.close() >= 16 * MIB
    del block
    gc.collect()
    if sys.platform == "linux":
        assert kept.tolist() == [0.0] * 4


def test_one_that_nobody_kept_unmaps_at_once(tmp_path):
    """Without a reader the block is unmapped by the unload itself."""
    path = saved(tmp_path, "safetensors", {"a": torch.ones(MIB)})
    block, tensors = placed(spec(path, "safetensors"))
    held = as_tensors(block.view, tensors)
    assert held["a"].sum() == MIB
    held.clear()
    block.close()
    assert block._map.closed


class InPieces:
    """Memory that a file's bytes are put into piece by piece, as those are sent to another process."""

    def __init__(self, far: bytearray) -> None:
        self.far = far

    def __call__(self, offset: int, data: memoryview) -> None:
        raise AssertionError(offset)

    def put_each(self, offset, length, fill, done) -> None:
        for start in range(offset, offset + length, MIB):
            end = min(offset + length, start + MIB)
            with memoryview(self.far) as whole:
                fill(start, whole[start:end])
            done(end - offset)


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_device_that_only_its_backend_can_write_gets_the_same(tmp_path, kind, *, in_pieces):
    """Writing piece by piece through a backend gives the bytes that placing in memory gives."""
    path = saved(tmp_path, kind, {"a": torch.randn(5 * MIB), "b": torch.arange(3), "c": torch.randn(0)})
    wanted = spec(path, kind, "BF16")
    block, tensors = placed(wanted)
    with closing(loader_of(wanted).open(wanted)) as file:
        far = bytearray(file.total_bytes)
        steps = []

        def write(offset: int, data: memoryview) -> None:
            far[offset : offset + len(data)] = data

        place_through(file, InPieces(far) if in_pieces else write, token(), steps.append)
    assert far == block.view
    assert steps == sorted(steps) and steps[-1] == sum(each.placed_bytes for each in tensors)
    block.close()


@pytest.mark.parametrize("kind", KINDS)
def test_cancelling_ends_both_threads_and_leaves_nothing_open(tmp_path, kind):
    """A cancelled load ends its threads and gives descriptors and maps back."""
    path = saved(tmp_path, kind, {"a": torch.randn(16 * MIB)})
    before = descriptors_and_maps(path)
    stopper = token()
    file = loader_of(spec(path, kind)).open(spec(path, kind))
    block = AnonymousBuffer(file.total_bytes)
    with block.view as view, pytest.raises(CancelledError):
        place(file, view, stopper, lambda completed: stopper.cancel())
    file.close()
    file.close()
    block.close()
    assert descriptors_and_maps(path) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_short_while_it_is_read_is_an_error_and_no_signal(tmp_path, kind):
    """It is read by position: of a mapping, the missing pages would end the process."""
    path = saved(tmp_path, kind, {"a": torch.randn(MIB)})
    with closing(loader_of(spec(path, kind)).open(spec(path, kind))) as file:
        os.truncate(path, 2 * MIB)
        with pytest.raises(ModelLoadFailedError, match="cut short while it was read, in tensor 'a'"):
            place(file, memoryview(bytearray(file.total_bytes)), token())


def test_the_registry_knows_its_own_and_says_so():
    """Built-in loaders are found by name; an unknown one is refused by name."""
    assert loader_names()[:3] == ("safetensors", "torch", "module")
    assert isinstance(loader_of(ModelSpec("m", "torch")), FileLoader)
    assert isinstance(loader_of(ModelSpec("m", "module")), ObjectLoader)
    for wanted, told in (
        (ModelSpec("m", "keras"), "there is no loader 'keras'"),
        (ModelSpec("m"), "external"),
    ):
        with pytest.raises(ModelLoadFailedError, match=told):
            loader_of(wanted)


def test_params_that_a_factory_does_not_take_are_named():
    """What a factory has no parameter for is refused with the nearest that it has, and not passed over."""
    spec = ModelSpec("m", "module", factory="tests.rigs.model_factory:make", params=(("device", 1),))
    with pytest.raises(ModelLoadFailedError) as caught:
        ModuleLoader().check(spec)
    told = "params.device is no parameter of its factory tests.rigs.model_factory:make; did you mean 'device_id'?"
    assert caught.value.details["cause"] == told


def test_an_installed_package_can_offer_a_loader(tmp_path, monkeypatch):
    """Entry points add loaders; one that is no loader, or cannot be imported, says so."""
    (tmp_path / "their_loader.py").write_text(
        "class Theirs:\n"
        "    def estimate(self, spec): return 3\n"
        "    def open(self, spec): raise OSError\n"
        "class Neither: pass\n"
        "class Unset:\n"
        "    def __init__(self): self.home = {}['THEIR_HOME']\n"
        "class Ends:\n"
        "    def __init__(self): raise SystemExit('no licence')\n"
    )
    info = tmp_path / "theirs-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[memory_worker.loaders]\ntheirs = their_loader:Theirs\nneither = their_loader:Neither\ngone = nosuch:It\n"
        "unset = their_loader:Unset\nends = their_loader:Ends\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "theirs" in loader_names()
    assert loader_of(ModelSpec("m", "theirs")).estimate(ModelSpec("m", "theirs")) == 3
    for name, told in (
        ("neither", "none of open, build and launch"),
        ("gone", "can't be had: ModuleNotFoundError"),
        ("unset", "can't be had: KeyError: 'THEIR_HOME'"),
        ("ends", "can't be had: SystemExit: no licence"),
        ("none", "there is no loader 'none'; there are .*, theirs"),
    ):
        with pytest.raises(ModelLoadFailedError, match=told):
            loader_of(ModelSpec("m", name))


def test_words_for_types_go_both_ways():
    """Every dtype has one word, and every word one dtype."""
    assert {FROM_TORCH[str(getattr(torch, name))] for name in TORCH_NAMES.values()} == TORCH_NAMES.keys()
